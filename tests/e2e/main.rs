//! The real command in a sealed room: one story a test.

mod bad_days;
mod counted;
mod detach;
mod daemon;
mod errors;
mod inspection;
mod interruption;
mod kept;
mod lines;
mod local;
mod matrix;
mod matrix_crowds;
mod matrix_kills;
mod matrix_links;
mod schemas;
mod scripted;
mod settings;
mod ssh;
mod stubborn_trees;
mod survive;
mod sync;
mod vanished;
mod watch;

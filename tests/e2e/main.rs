//! The real command in a sealed room: one story a test.

mod errors;
mod inspection;
mod interruption;
mod kept;
mod local;
mod scripted;
mod ssh;
mod sync;

//! The real command in a sealed room: one story a test.

mod local;

//! One run, from plan to outcome.

pub mod command;
pub mod process;
pub mod record;
pub mod results;

//! One run, from plan to outcome.

pub mod record;
pub mod results;

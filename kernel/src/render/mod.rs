//! Events, errors and records to text: pure functions, no terminal.

pub mod human;
pub mod json;
pub mod table;
pub mod text;

//! Starts crabbox.
fn main() {}

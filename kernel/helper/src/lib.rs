//! The helper: the small program that serves trees and runs on a box.

mod fault;
pub mod tree;

pub use fault::Fault;

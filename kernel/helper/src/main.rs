//! `crabbox-helper`: the small program that serves trees and runs on a box.

fn main() {}

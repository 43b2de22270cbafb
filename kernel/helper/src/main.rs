//! `crabbox-helper`: the small program that serves trees and runs on a box.

fn main() -> std::process::ExitCode {
    crabbox_helper::main()
}

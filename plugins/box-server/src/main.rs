//! `crabbox-box-server`: the first process of a container that is a box.

fn main() -> std::process::ExitCode {
    crabbox_box_server::main()
}

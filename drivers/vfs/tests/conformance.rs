//! The storage contract, checked case by case.

fn main() -> std::process::ExitCode {
    mica_conformance::harness::main(&mica_vfs::DRIVER)
}

//! The storage contract, checked case by case.

fn main() -> std::process::ExitCode {
    mica_conformance::harness::main(&hello_driver::DRIVER)
}

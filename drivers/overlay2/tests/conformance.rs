//! The storage contract, checked case by case.

fn main() -> std::process::ExitCode {
    mica_conformance::harness::main_each(
        &mica_overlay2::DRIVER,
        &[("", &[]), ("user-xattr", &[("userxattr", "true")])],
    )
}

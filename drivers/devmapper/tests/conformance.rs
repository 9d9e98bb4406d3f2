//! The storage contract, checked case by case.

fn main() -> std::process::ExitCode {
    let small: &[(&str, &str)] = &[("base_size", "512M"), ("min_free", "0")];
    let xfs: &[(&str, &str)] = &[("base_size", "512M"), ("min_free", "0"), ("filesystem", "xfs")];
    mica_conformance::harness::main_each(&mica_devmapper::DRIVER, &[("", small), ("xfs", xfs)])
}

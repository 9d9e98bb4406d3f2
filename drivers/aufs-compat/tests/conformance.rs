//! The storage contract, checked case by case: with the page cache of FUSE alone, with files that the kernel reads and
//! writes by itself, and with old descriptors that keep old data.

fn main() -> std::process::ExitCode {
    mica_conformance::harness::main_each(
        &mica_aufs_compat::DRIVER,
        &[
            ("cached", &[("passthrough", "false")]),
            ("passthrough", &[("passthrough", "true")]),
            ("stale-reads", &[("stale_reads", "true")]),
        ],
    )
}

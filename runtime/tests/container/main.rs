//! Containers made for real, of a static busybox. A container is made by a process of one thread, so this
//! program runs itself again as the supervisor of each (`MICA_TEST_SUPERVISOR` is set there); see
//! `supervisor.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod bed;
mod cgroup;
mod create;
mod escape;
mod exec;
mod namespaces;
mod oracle;
mod rootfs;
mod supervisor;
mod terminal;
mod unified;

use libtest_mimic::{Arguments, Trial};

/// One test: its name and what it does.
type Case = (&'static str, fn());

/// Lists functions under their own names.
#[macro_export]
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        pub(crate) const CASES: &[$crate::Case] = &[$((stringify!($name), $name)),*];
    };
}

fn main() {
    if std::env::var_os("MICA_TEST_SUPERVISOR").is_some() {
        return supervisor::serve();
    }
    if std::env::var_os("MICA_TEST_TRAP").is_some() {
        return escape::overwrite_self();
    }
    let modules = [
        ("cgroup", cgroup::CASES),
        ("create", create::CASES),
        ("escape", escape::CASES),
        ("exec", exec::CASES),
        ("namespaces", namespaces::CASES),
        ("oracle", oracle::CASES),
        ("rootfs", rootfs::CASES),
        ("terminal", terminal::CASES),
        ("unified", unified::CASES),
    ];
    let trial = |module: &str, (name, run): Case| {
        Trial::test(format!("{module}::{name}"), move || {
            run();
            Ok(())
        })
    };
    let trials =
        modules.iter().flat_map(|(module, cases)| cases.iter().map(|case| trial(module, *case))).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

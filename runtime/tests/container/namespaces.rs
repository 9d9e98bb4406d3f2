//! Namespaces that are the host's or another container's.

use std::collections::BTreeSet;
use std::fs;

use oci_spec::runtime::{Capabilities, LinuxNamespaceType};

use crate::bed::{Bed, until};
use crate::cases;

cases![
    a_container_shares_what_it_joins_of_another,
    a_container_in_the_hosts_pid_namespace_is_taken_down_whole,
    a_container_on_the_hosts_network_has_its_interfaces,
    a_namespace_that_is_gone_is_an_error,
    a_hostname_needs_a_namespace,
    a_privileged_container_gets_what_the_host_has,
];

fn place(bed: &mut Bed, kind: LinuxNamespaceType, path: Option<String>) {
    let namespaces = bed.linux().namespaces_mut().as_mut().unwrap();
    match path {
        None => namespaces.retain(|namespace| namespace.typ() != kind),
        Some(path) => {
            let found = namespaces.iter_mut().find(|namespace| namespace.typ() == kind).unwrap();
            found.set_path(Some(path.into()));
        }
    }
}

fn a_container_shares_what_it_joins_of_another() {
    let mut first = Bed::with_command(&["sleep", "1000"]);
    let pid = first.up();
    let mut second = Bed::new("echo $$; sleep 1000");
    let kinds = [
        (LinuxNamespaceType::Network, "net"),
        (LinuxNamespaceType::Ipc, "ipc"),
        (LinuxNamespaceType::Uts, "uts"),
        (LinuxNamespaceType::Pid, "pid"),
    ];
    for (kind, file) in kinds {
        place(&mut second, kind, Some(format!("/proc/{pid}/ns/{file}")));
    }
    let joined = second.up();
    for (_, file) in kinds {
        let of = |pid| fs::read_link(format!("/proc/{pid}/ns/{file}")).unwrap();
        assert_eq!(of(joined), of(pid), "{file}");
    }
    assert_ne!(
        fs::read_link(format!("/proc/{joined}/ns/mnt")).unwrap(),
        fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap()
    );
    // Beside the first one's process 1, and so does what joins it.
    assert_ne!(second.exec("echo $$").output, "1\n");
    assert!(second.exec("ls -d /proc/1").output.contains("/proc/1"));
    second.supervisor.delete().unwrap();
    assert_eq!(first.exec("true").code, 0);
    first.supervisor.delete().unwrap();
}

fn a_container_in_the_hosts_pid_namespace_is_taken_down_whole() {
    let mut bed = Bed::new("sleep 1000 & sleep 1000 & sleep 1000");
    place(&mut bed, LinuxNamespaceType::Pid, None);
    bed.up();
    until("all three processes run", || bed.supervisor.processes().len() == 3);
    bed.supervisor.delete().unwrap();
    assert!(bed.cgroups().is_empty());
}

fn a_container_on_the_hosts_network_has_its_interfaces() {
    let mut bed = Bed::new("readlink /proc/self/ns/net; ls /sys/class/net");
    place(&mut bed, LinuxNamespaceType::Network, None);
    bed.linux().set_sysctl(None);
    let before = interfaces();
    let output = bed.run().output;
    let mut lines = output.lines();
    assert_eq!(lines.next(), fs::read_link("/proc/self/ns/net").unwrap().to_str());
    let seen: BTreeSet<String> = lines.map(str::to_owned).collect();
    // Others may make and remove interfaces meanwhile.
    let stayed: BTreeSet<String> = before.intersection(&interfaces()).cloned().collect();
    assert!(stayed.contains("lo") && stayed.is_subset(&seen), "{stayed:?} {seen:?}");
}

fn interfaces() -> BTreeSet<String> {
    let entries = fs::read_dir("/sys/class/net").unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn a_namespace_that_is_gone_is_an_error() {
    let mut bed = Bed::new("true");
    place(&mut bed, LinuxNamespaceType::Network, Some("/proc/0/ns/net".into()));
    let failure = bed.create().unwrap_err();
    assert!(failure.text.starts_with("opening the namespace /proc/0/ns/net"), "{}", failure.text);
    assert!(bed.cgroups().is_empty());
}

fn a_hostname_needs_a_namespace() {
    let mut bed = Bed::new("true");
    bed.spec.set_hostname(Some("box".into()));
    place(&mut bed, LinuxNamespaceType::Uts, None);
    assert!(bed.create().unwrap_err().text.contains("uts namespace"));
}

fn a_privileged_container_gets_what_the_host_has() {
    let mut bed = Bed::new(
        "grep -E '^(CapEff|Seccomp):' /proc/self/status; touch /proc/sys/kernel/panic && echo writable",
    );
    let every: Capabilities = serde_json::from_value(serde_json::json!([
        "CAP_SYS_ADMIN",
        "CAP_SYS_RESOURCE",
        "CAP_NET_ADMIN",
        "CAP_SYS_PTRACE",
        "CAP_MKNOD",
    ]))
    .unwrap();
    bed.process().set_capabilities(Some(mica_runtime::defaults::capabilities(every)));
    bed.linux().set_seccomp(None).set_masked_paths(None).set_readonly_paths(None);
    let made = bed.create().unwrap();
    bed.supervisor.start().unwrap();
    bed.supervisor.wait(made.pid);
    let own = rustix::thread::capabilities(None).unwrap().permitted.bits();
    let wanted = (1 << 21 | 1 << 24 | 1 << 12 | 1 << 19 | 1 << 27) & own;
    assert_eq!(bed.output(), format!("CapEff:\t{wanted:016x}\nSeccomp:\t0\nwritable\n"));
    assert_eq!(made.notes.is_empty(), own & 1 << 24 != 0, "{:?}", made.notes);
}

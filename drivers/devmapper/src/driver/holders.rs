//! Who has a device, for the text of an error.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The processes in whose mount namespaces the device is mounted, or that have it open.
pub(crate) fn of(node: &Path) -> String {
    let Ok(device) = fs::metadata(node).map(|meta| meta.rdev()) else {
        return "somebody".to_owned();
    };
    let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let holders = processes.filter_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let dir = process.path();
        let holds = mounts(&dir, &number) || has_open(&dir, node);
        holds.then(|| format!("process {pid} ({})", name(&dir)))
    });
    // Processes of one mount namespace all show its mounts; a few of them will do.
    let some: Vec<String> = holders.take(3).collect();
    if some.is_empty() { "a mount that no process shows".to_owned() } else { some.join(", ") }
}

fn mounts(process: &Path, number: &str) -> bool {
    let table = fs::read_to_string(process.join("mountinfo")).unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(2) == Some(number))
}

fn has_open(process: &Path, node: &Path) -> bool {
    let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| target == node)
}

fn name(process: &Path) -> String {
    fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned()
}

//! How much is needed of what.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use super::super::names::Budget;
use super::Branches;

/// The memory that this process has, in bytes.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_file_that_the_kernel_knows_needs_some_hundred_bytes_and_no_descriptor() {
    const FILES: usize = 40_000;
    let branches = Branches::new(2);
    for number in 0..FILES {
        fs::write(branches.at(1, format!("file-{number}")), "").unwrap();
    }
    let union = branches.open();
    let (memory, open) = (resident(), descriptors());
    for number in 0..FILES {
        assert!(union.lookup(&union.root, format!("file-{number}").as_bytes()).unwrap().is_some());
    }
    let each = (resident() - memory) / FILES;
    assert!(each < 600, "{each} bytes for a name and a node");
    assert!(descriptors() < open + 10);
    assert_eq!(union.nodes(), FILES);
}

#[test]
fn names_that_were_not_used_of_late_are_dropped_and_read_again() {
    let branches = Branches::new(2);
    for dir in 0..50 {
        for name in 0..20 {
            branches.write(1, format!("{dir}/{name}"), "below");
        }
    }
    let mut union = branches.open();
    Arc::get_mut(&mut union).unwrap().budget = Budget::new(100);
    // Held, as by the kernel, so that the directories stay.
    let held: Vec<_> = (0..50).map(|dir| union.at(&dir.to_string()).unwrap()).collect();
    for round in 0..3 {
        for (dir, node) in held.iter().enumerate() {
            assert_eq!(union.listed(node).unwrap().len(), 20 + round);
            assert!(union.budget.used() <= 100 + 50 + 2 * 22, "{}", union.budget.used());
            union.write_at(&format!("{dir}/new-{round}"), "above").unwrap();
        }
    }
}

#[test]
fn a_tree_deeper_than_a_stack_is_forgotten() {
    let branches = Branches::new(1);
    let union = branches.open();
    let mut node = Arc::clone(&union.root);
    for _ in 0..3000 {
        let new = super::New::Directory(rustix::fs::Mode::RWXU);
        let made = union.make(&node, b"d", new, super::ROOT).unwrap();
        node = made.node;
    }
    // Far more often than there are descriptors for directories kept: they are opened from the top.
    assert_eq!(union.stat(&node).unwrap().stx_nlink, 2);
    let mut numbers = Vec::new();
    let mut at = Some(Arc::clone(&node));
    while let Some(node) = at {
        numbers.push(node.number);
        at = node.parent();
    }
    drop(node);
    // The parents first, which the kernel never does.
    for number in numbers.iter().rev() {
        union.forget(*number, 1);
    }
    assert_eq!(union.nodes(), 0);
    // Too deep for who deletes the branches by their paths.
    let deleted = Command::new("rm").arg("-rf").arg(branches.at(0, "d")).status().unwrap();
    assert!(deleted.success());
}

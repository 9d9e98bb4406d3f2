//! What is left when a call was killed, a namespace vanished, or somebody flushed the rules: nothing, or all of it.

use std::process::Command;

use serde_json::json;

use super::{Pod, Runtime};

#[test]
fn a_container_whose_namespace_is_gone_is_disconnected() {
    let runtime = Runtime::new();
    let kept = Pod::new("kept");
    let config = runtime.config(&json!({}));
    runtime.add(&kept, &config);
    let before = runtime.state();
    let ports = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] });
    for named in [true, false] {
        let mut pod = Pod::new("gone");
        runtime.add(&pod, &runtime.config(&json!({ "runtimeConfig": ports })));
        drop(pod.namespace.take());
        let mut command = runtime.command("DEL", Some(&pod), &config);
        if !named {
            command.env_remove("CNI_NETNS");
        }
        let answer = runtime.host.run(&mut command);
        assert_eq!((answer.status, answer.out.as_str()), (Some(0), ""), "{answer:?}");
        runtime.becomes(&before);
    }
    let changed =
        runtime.config(&json!({ "driver": "weave", "firewall": "iptables", "ipam": {}, "subnets": "?" }));
    runtime.ok("DEL", &kept, &changed);
    assert_eq!(runtime.host.inspect("pods")["Containers"], json!({}));
    let nowhere = json!({ "cniVersion": "1.1.0", "name": "pods", "root": runtime.dir.path().join("none") });
    runtime.ok("DEL", &kept, &nowhere);
    assert!(!runtime.dir.path().join("none").exists());
}

#[test]
fn a_call_that_is_killed_leaves_what_the_next_one_takes_away() {
    let runtime = Runtime::new();
    let (kept, pod) = (Pod::new("kept"), Pod::new("one"));
    let ports = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] });
    let config = runtime.config(&json!({ "runtimeConfig": ports }));
    runtime.add(&kept, &runtime.config(&json!({})));
    let before = runtime.state();
    for point in ["cni.recorded", "cni.up", "cni.attached"] {
        for next in ["DEL", "ADD"] {
            let answer =
                runtime.host.run(runtime.command("ADD", Some(&pod), &config).env("MICA_FAILPOINT", point));
            assert_eq!(answer.status, None, "{point}: {answer:?}");
            runtime.ok(next, &pod, &config);
            runtime.ok("DEL", &pod, &config);
            assert_eq!(runtime.state(), before, "{point}, {next}");
            assert_eq!(pod.ip("-o link").lines().count(), 1, "{point}, {next}");
        }
    }
    for point in ["network.detaching", "network.detached", "network.forgotten"] {
        runtime.add(&pod, &config);
        let answer =
            runtime.host.run(runtime.command("DEL", Some(&pod), &config).env("MICA_FAILPOINT", point));
        assert_eq!(answer.status, None, "{point}: {answer:?}");
        runtime.ok("DEL", &pod, &config);
        assert_eq!(runtime.state(), before, "{point}");
    }
}

#[test]
fn what_the_runtime_forgot_is_collected() {
    let runtime = Runtime::new();
    let pods = [Pod::new("one"), Pod::new("two"), Pod::new("three")];
    let config = runtime.config(&json!({}));
    runtime.add(&pods[0], &config);
    let before = runtime.state();
    pods[1..].iter().for_each(|pod| drop(runtime.add(pod, &config)));
    assert_eq!(runtime.refused("GC", None, &config).0, 7);
    let valid = json!([{ "containerID": "one", "ifname": "eth0" }]);
    let answer = runtime.call("GC", None, &runtime.config(&json!({ "cni.dev/valid-attachments": valid })));
    assert_eq!((answer.status, answer.out.as_str()), (Some(0), ""), "{answer:?}");
    assert_eq!(runtime.state(), before);
    let answer = runtime.call("GC", None, &runtime.config(&json!({ "cni.dev/valid-attachments": [] })));
    assert_eq!(answer.status, Some(0), "{answer:?}");
    assert_eq!(pods[0].ip("-o link").lines().count(), 1);
}

#[test]
fn what_a_runtime_never_disconnects_is_removed_by_a_repair() {
    let runtime = Runtime::new();
    let (kept, mut lost) = (Pod::new("kept"), Pod::new("lost"));
    let config = runtime.config(&json!({}));
    runtime.add(&kept, &config);
    let before = runtime.state();
    runtime.add(&lost, &config);
    assert_eq!(runtime.host.ok(&["network", "check"]), "nothing to do\n");
    drop(lost.namespace.take());
    let text = runtime.host.fails(&["network", "check"]);
    assert!(text.contains("container 'lost'") && text.contains("namespace is gone"), "{text}");
    let text = runtime.host.ok(&["network", "check", "--repair"]);
    assert!(text.contains("removed the endpoint of container 'lost'"), "{text}");
    runtime.becomes(&before);
    assert_eq!(runtime.host.run(Command::new("nft").args(["flush", "ruleset"])).status, Some(0));
    assert!(runtime.host.mica(&["network", "check"]).err.contains("container 'kept'"));
    runtime.host.ok(&["network", "check", "--repair"]);
    assert_eq!(runtime.host.ok(&["network", "check"]), "nothing to do\n");
    runtime.becomes(&before);
}

#[test]
fn rules_that_were_flushed_come_back_for_all_with_the_next_container() {
    let runtime = Runtime::new();
    let (one, other) = (Pod::new("one"), Pod::new("other"));
    let ports = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] });
    let result = runtime.add(&one, &runtime.config(&json!({ "runtimeConfig": ports })));
    let checked = runtime.config(&json!({ "prevResult": result }));
    assert_eq!(runtime.host.run(Command::new("nft").args(["flush", "ruleset"])).status, Some(0));
    assert_eq!(runtime.refused("CHECK", Some(&one), &checked).0, 103);
    runtime.add(&other, &runtime.config(&json!({})));
    runtime.ok("CHECK", &one, &checked);
    one.serve(80);
    assert_eq!(other.ask("10.22.0.1:8080"), "10.22.0.1");
}

//! Containers of another runtime, in one network with those of this engine.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::thread;

use mica_conformance::network::Namespace;
use serde_json::{Value, json};

use crate::bed::{Answer, Bed, eventually, once};

/// Calls the plugin, as `mica --root DIR cni`, for a container `pod` in this namespace.
fn call(bed: &Bed, verb: &str, namespace: &Namespace, more: &[(&str, Value)]) -> Answer {
    let mut config = json!({ "cniVersion": "1.1.0", "name": "shop", "type": "mica-cni" });
    more.iter().for_each(|(name, value)| config[*name] = value.clone());
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd());
    let mut command = bed.command(&["cni"]);
    command
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", "pod")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_NETNS", path);
    let mut child = bed.spawn(command.stdin(Stdio::piped()));
    child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

/// Answers each connection with the address that it came from.
fn serve(namespace: &Namespace) {
    let listener = namespace.inside(|| TcpListener::bind("0.0.0.0:80")).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let _ = stream.write_all(from.ip().to_string().as_bytes());
        }
    });
}

#[test]
fn a_container_of_another_runtime_is_a_neighbour_with_its_names() {
    once(|bed| {
        bed.ok(&["network", "create", "--subnet", "10.31.0.0/24", "--ipv6=false", "shop"]);
        bed.ok(&["run", "-d", "--name", "web", "--network", "shop", "busybox", "sleep", "1000"]);
        let namespace = Namespace::new().unwrap();
        let aliases = json!({ "aliases": ["store"] });
        let added = call(bed, "ADD", &namespace, &[("runtimeConfig", aliases)]);
        assert_eq!(added.status, Some(0), "{added:?}");
        serve(&namespace);
        for name in ["pod", "store", "store.shop", "10.31.0.3"] {
            let heard = bed.ok(&["exec", "web", "busybox", "nc", "-w", "5", name, "80"]);
            assert_eq!(heard, "10.31.0.2", "{name}");
        }
        let text = bed.fails(1, &["network", "rm", "shop"]);
        assert!(text.contains("'pod'") && text.contains("'web'"), "{text}");
        let removed = call(bed, "DEL", &namespace, &[]);
        assert_eq!((removed.status, removed.out.as_str()), (Some(0), ""), "{removed:?}");
        let said = bed.run(&["exec", "web", "busybox", "nslookup", "store"]);
        assert!(said.out.contains("can't find store"), "{said:?}");
    });
}

#[test]
fn a_port_that_one_runtime_published_the_other_does_not_get() {
    once(|bed| {
        bed.ok(&["network", "create", "--ipv6=false", "shop"]);
        let (one, other) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        let ports = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] });
        let run = ["run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sleep", "1000"];
        let added = call(bed, "ADD", &one, &[("runtimeConfig", ports.clone())]);
        assert_eq!(added.status, Some(0), "{added:?}");
        let text = bed.fails(125, &run);
        assert!(text.contains("8080") && text.contains("container 'pod'"), "{text}");
        bed.ok(&["rm", "-f", "web"]);
        assert_eq!(call(bed, "DEL", &one, &[]).status, Some(0));
        bed.ok(&run);
        let refused = call(bed, "ADD", &other, &[("runtimeConfig", ports)]);
        assert_eq!(refused.status, Some(1), "{refused:?}");
        assert!(refused.out.contains("8080") && refused.out.contains("container 'web'"), "{refused:?}");
    });
}

#[test]
fn rules_that_were_flushed_come_back_with_the_next_container_of_either_runtime() {
    once(|bed| {
        bed.ok(&["network", "create", "--ipv6=false", "shop"]);
        bed.ok(&["run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sleep", "1000"]);
        let pods = [Namespace::new().unwrap(), Namespace::new().unwrap()];
        let flush = || assert!(Command::new("nft").args(["flush", "ruleset"]).status().unwrap().success());
        let is_whole = || bed.run(&["network", "check"]).status == Some(0);
        assert!(is_whole());
        flush();
        assert!(!is_whole());
        assert_eq!(call(bed, "ADD", &pods[0], &[]).status, Some(0));
        eventually("the supervisor mended its container", is_whole);
        flush();
        bed.ok(&["run", "--rm", "busybox", "true"]);
        eventually("each endpoint is whole", is_whole);
    });
}

//! Any profile, not only the default one.

use mica_runtime::seccomp::{Error, compile};
use oci_spec::runtime::LinuxSeccomp;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::meaning::{ABIS, ALLOW, CALLS, answer, errno, number};
use crate::profile;
use crate::vm::{Call, run};

const X86_64: u32 = ABIS[0].1;
const X86: u32 = ABIS[1].1;

/// Values around which 64-bit comparisons by halves go wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    2,
    38,
    0x7e02_0000,
    0xffff_fffe,
    0xffff_ffff,
    1 << 32,
    (1 << 32) + 38,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![4 => prop::sample::select(&EDGES[..]), 1 => any::<u64>()]
}

fn arg() -> impl Strategy<Value = Value> {
    let op = prop::sample::select(&["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"][..]);
    (0..6_usize, value(), value(), op).prop_map(|(index, value, two, op)| {
        json!({ "index": index, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}") })
    })
}

/// An action under the keys that it has in a rule or as the default.
fn action(keys: [&'static str; 2]) -> impl Strategy<Value = serde_json::Map<String, Value>> {
    let name = prop::sample::select(&["ALLOW", "ERRNO", "KILL", "KILL_PROCESS", "TRAP", "LOG", "TRACE"][..]);
    (name, prop::option::of(0..4096_u32)).prop_map(move |(name, errno)| {
        let mut fields = serde_json::Map::from_iter([(keys[0].into(), json!(format!("SCMP_ACT_{name}")))]);
        if let ("ERRNO" | "TRACE", Some(errno)) = (name, errno) {
            fields.insert(keys[1].into(), json!(errno));
        }
        fields
    })
}

fn rule() -> impl Strategy<Value = Value> {
    let names = prop::sample::subsequence(CALLS.map(|call| call.0).to_vec(), 1..5);
    (names, prop::collection::vec(arg(), 0..4), action(["action", "errnoRet"])).prop_map(
        |(names, args, mut rule)| {
            rule.insert("names".into(), json!(names));
            rule.insert("args".into(), json!(args));
            rule.into()
        },
    )
}

fn any_profile() -> impl Strategy<Value = LinuxSeccomp> {
    let architectures = prop::sample::subsequence(ABIS.map(|abi| abi.0).to_vec(), 0..=5);
    // Up to 150 rules, so that jumps of more than 255 instructions come up.
    let rules = prop_oneof![prop::collection::vec(rule(), 0..8), prop::collection::vec(rule(), 100..150)];
    (action(["defaultAction", "defaultErrnoRet"]), architectures, rules).prop_map(
        |(mut all, architectures, rules)| {
            all.insert("architectures".into(), json!(architectures));
            all.insert("syscalls".into(), json!(rules));
            profile(all.into())
        },
    )
}

/// Every number at which an answer can change, and the ones beside it, on every architecture and an unknown one.
fn boundaries() -> impl Iterator<Item = (u32, u32)> {
    let named = (0..5).flat_map(|abi| CALLS.iter().filter_map(move |call| number(call.0, abi)));
    let edges = [0, 599, 0x3fff_ffff, 0x4000_0000, 0x4000_0200, 0xf_0000, 0x8000_0000, u32::MAX];
    let mut numbers: Vec<u32> = named.chain(edges).collect();
    numbers.extend(numbers.clone().iter().flat_map(|n| [n.wrapping_sub(1), n.wrapping_add(1)]));
    numbers.sort_unstable();
    numbers.dedup();
    [ABIS[0].1, ABIS[1].1, ABIS[3].1, ABIS[4].1, 0x1234]
        .into_iter()
        .flat_map(move |audit| numbers.clone().into_iter().map(move |number| (audit, number)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_program_answers_as_its_profile_says(
        profile in any_profile(),
        args in prop::collection::vec(prop::array::uniform6(value()), 2),
    ) {
        let program = compile(&profile).unwrap();
        for (audit, number) in boundaries() {
            for args in &args {
                let call = Call { audit, number, args: *args };
                prop_assert_eq!(run(&program, &call).0, answer(&profile, &call), "{:?}", call);
            }
        }
    }
}

fn answers(profile: &LinuxSeccomp, audit: u32, number: u32, args: [u64; 6]) -> u32 {
    run(&compile(profile).unwrap(), &Call { audit, number, args }).0
}

#[test]
fn a_call_newer_than_the_profile_is_not_there_rather_than_not_permitted() {
    let named = |names: &[&str]| {
        profile(
            json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{ "names": names, "action": "SCMP_ACT_ALLOW" }] }),
        )
    };
    let until_mount = named(&["read", "mount"]);
    assert_eq!(answers(&until_mount, X86_64, 165, [0; 6]), ALLOW);
    assert_eq!(answers(&until_mount, X86_64, 164, [0; 6]), errno(libc::EPERM));
    assert_eq!(answers(&until_mount, X86_64, 166, [0; 6]), errno(libc::ENOSYS));
    // A profile of no call at all knows of no time, and a name that does not exist is of no time either.
    assert_eq!(answers(&named(&["no_such_call"]), X86_64, 600, [0; 6]), errno(libc::EPERM));
}

#[test]
fn a_denied_call_is_denied_behind_a_multiplexer_too() {
    let denied = profile(json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{ "names": ["connect", "shmat"], "action": "SCMP_ACT_ERRNO" }],
    }));
    let (socketcall, ipc) = (102, 117);
    assert_eq!(answers(&denied, X86, 362, [0; 6]), errno(libc::EPERM));
    assert_eq!(answers(&denied, X86, socketcall, [3, 0, 0, 0, 0, 0]), errno(libc::EPERM));
    assert_eq!(answers(&denied, X86, socketcall, [2, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(answers(&denied, X86, ipc, [21, 0, 0, 0, 0, 0]), errno(libc::EPERM));
    assert_eq!(answers(&denied, X86, ipc, [0x1_0015, 0, 0, 0, 0, 0]), errno(libc::EPERM), "with a version");
    assert_eq!(answers(&denied, X86, ipc, [22, 0, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn what_a_filter_cannot_do_is_refused_in_words() {
    let refused = |json: Value| compile(&profile(json)).unwrap_err();
    let rule = |rule: Value| refused(json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [rule] }));

    let error = rule(json!({ "names": ["read"], "action": "SCMP_ACT_NOTIFY" }));
    assert!(matches!(error, Error::Notify), "{error}");
    let error = refused(json!({ "defaultAction": "SCMP_ACT_NOTIFY" }));
    assert!(matches!(error, Error::Notify), "{error}");
    let error = rule(json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1 }));
    assert_eq!(
        error.to_string(),
        "seccomp profile: SCMP_ACT_ALLOW returns no errno; drop errnoRet, or use SCMP_ACT_ERRNO"
    );
    let error = rule(json!({ "names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096 }));
    assert!(matches!(error, Error::ErrnoTooLarge { errno: 4096, max: 4095 }), "{error}");
    let arg = json!({ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" });
    let error = rule(json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [arg] }));
    assert!(matches!(error, Error::Argument { index: 6 }), "{error}");
}

#[test]
fn a_program_longer_than_the_kernel_takes_is_refused_with_its_length() {
    let rules: Vec<Value> = (0..1500)
        .map(|n| {
            json!({
                "names": ["ioctl"], "action": "SCMP_ACT_ALLOW",
                "args": [{ "index": 1, "value": n, "op": "SCMP_CMP_EQ" }],
            })
        })
        .collect();
    let error =
        compile(&profile(json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules }))).unwrap_err();
    assert!(matches!(error, Error::TooLong { count } if count > 4096), "{error}");
}

#[test]
fn no_distance_makes_a_jump_miss() {
    let rule = |name: &str, mask: u64, value: u64, action: &str| {
        let arg = json!({ "index": 0, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ" });
        json!({ "names": [name], "action": action, "args": [arg] })
    };
    // A call of x32 is killed, the one above it allowed; `read` leaves an instruction for either, and the rules of
    // `write` come between. They have two instructions each, the first three if its mask is short, so that the choice
    // meets every distance.
    let half = u64::from(u32::MAX);
    for (long, mask) in (0..140).flat_map(|long| [(long, half), (long, 0xffff)]) {
        let mut rules =
            vec![rule("read", half, 1, "SCMP_ACT_KILL_PROCESS"), rule("write", mask, 1000, "SCMP_ACT_ERRNO")];
        rules.extend((0..long).map(|n| rule("write", half, n, "SCMP_ACT_ERRNO")));
        let profile = profile(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules }));
        let program = compile(&profile).unwrap();
        for number in [0, 1, 2, 0x4000_0000, u32::MAX] {
            for first in [0, 1, 139, 1000] {
                let call = Call { audit: X86_64, number, args: [first, 0, 0, 0, 0, 0] };
                assert_eq!(run(&program, &call).0, answer(&profile, &call), "{long} rules, {call:?}");
            }
        }
    }
}

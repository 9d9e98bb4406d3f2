use proptest::prelude::*;

use super::*;

fn subnet(text: &str) -> Subnet {
    text.parse().unwrap()
}

fn taken(subnets: &[&str]) -> Vec<Taken> {
    subnets.iter().map(|text| Taken { subnet: subnet(text), by: "a test".to_owned() }).collect()
}

fn block(within: &str, prefix: u8) -> Block {
    Block::new(subnet(within), prefix).unwrap()
}

#[test]
fn the_first_subnet_that_touches_nothing_is_chosen() {
    let blocks = [block("10.0.0.0/22", 24), block("192.168.0.0/24", 24)];
    for (held, expected) in [
        (&[][..], "10.0.0.0/24"),
        (&["10.0.0.7/32"], "10.0.1.0/24"),
        (&["10.0.1.0/24", "10.0.0.0/25"], "10.0.2.0/24"),
        (&["10.0.0.0/23", "10.0.0.0/24", "fd00::/8"], "10.0.2.0/24"),
        (&["10.0.1.0/24"], "10.0.0.0/24"),
        (&["10.0.0.0/8"], "192.168.0.0/24"),
    ] {
        assert_eq!(choose(&blocks, &taken(held)).unwrap(), subnet(expected), "{held:?}");
    }
}

#[test]
fn an_exhausted_space_names_who_holds_what() {
    let held = [
        Taken { subnet: subnet("10.0.1.0/24"), by: "network 'web'".to_owned() },
        Taken { subnet: subnet("10.0.0.0/24"), by: "the routes of 'tun0'".to_owned() },
        Taken { subnet: subnet("192.168.0.0/16"), by: "nobody who matters".to_owned() },
    ];
    let text = choose(&[block("10.0.0.0/23", 24)], &held).unwrap_err().to_string();
    assert_eq!(
        text,
        "the space for new networks (10.0.0.0/23 in subnets of 24 bits) is full: it takes nothing beside 10.0.0.0/24 of \
         the routes of 'tun0' and 10.0.1.0/24 of network 'web'; remove a network that nobody needs, or name a subnet"
    );
}

#[test]
fn thousands_of_networks_have_room() {
    let owner = OwnerId::from_bytes([1; 8]);
    let room = |family, held: Vec<String>| {
        let held: Vec<_> = held.iter().rev().map(String::as_str).collect();
        choose(&blocks(family, &owner).unwrap(), &taken(&held)).unwrap()
    };
    let private: Vec<_> = (0..4096).map(|at| format!("172.{}.{}.0/24", 16 + at / 256, at % 256)).collect();
    assert_eq!(room(Family::V4, private[..4000].to_vec()), subnet("172.31.160.0/24"));
    assert_eq!(room(Family::V4, private), subnet("10.0.0.0/24"));
    let own = (0..4096).map(|at| format!("fd01:101:101:{at:x}::/64")).collect();
    assert_eq!(room(Family::V6, own), subnet("fd01:101:101:1000::/64"));
}

#[test]
fn the_sixth_family_comes_out_of_a_block_of_the_engines_own() {
    let of = |bytes| choose(&blocks(Family::V6, &OwnerId::from_bytes(bytes)).unwrap(), &[]).unwrap();
    assert_eq!(of([1, 2, 3, 4, 5, 6, 7, 8]), subnet("fd01:203:405::/64"));
    assert_ne!(of([1; 8]), of([2; 8]));
}

#[test]
fn a_subnet_that_was_wished_for_is_refused_with_all_who_have_a_part_of_it() {
    let held = [
        Taken { subnet: subnet("10.0.0.0/9"), by: "the routes of 'tun0'".to_owned() },
        Taken { subnet: subnet("10.0.1.0/24"), by: "network 'web'".to_owned() },
    ];
    let text = check_free(subnet("10.0.0.0/16"), &held).unwrap_err().to_string();
    assert_eq!(
        text,
        "subnet 10.0.0.0/16, or a part of it, is in use by the routes of 'tun0' with 10.0.0.0/9 and network 'web' with 10.0.1.0/24"
    );
    check_free(subnet("10.128.0.0/9"), &held).unwrap();
}

#[test]
fn a_block_is_cut_into_parts_of_it() {
    assert!(Block::new(subnet("10.0.0.0/24"), 23).is_err());
    assert!(Block::new(subnet("10.0.0.0/24"), 33).is_err());
    assert_eq!(choose(&[block("::/0", 0)], &[]).unwrap(), subnet("::/0"));
    assert!(choose(&[block("::/0", 128)], &taken(&["::/0"])).is_err(), "the last address has no next one");
    assert_eq!(
        choose(&[block("255.255.255.254/31", 32)], &taken(&["255.255.255.254/32"])).unwrap().prefix(),
        32
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// The walk along what is taken finds what trying every subnet finds.
    #[test]
    fn choosing_agrees_with_trying_every_subnet(
        held in proptest::collection::vec((0u32..256, 24u8..=32), 0..24),
        prefix in 26u8..=30,
    ) {
        let within = block("10.0.0.0/24", prefix);
        let held: Vec<Taken> = held
            .into_iter()
            .map(|(low, bits)| {
                let ip = std::net::Ipv4Addr::from_bits(0x0a00_0000 | low).into();
                Taken { subnet: Address::new(ip, bits).unwrap().subnet(), by: String::new() }
            })
            .collect();
        let every = (0u32..256).step_by(1 << (32 - prefix)).map(|low| {
            Subnet::new(std::net::Ipv4Addr::from_bits(0x0a00_0000 | low).into(), prefix).unwrap()
        });
        let expected = every.into_iter().find(|&subnet| check_free(subnet, &held).is_ok());
        prop_assert_eq!(choose(&[within], &held).ok(), expected);
    }
}

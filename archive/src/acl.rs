//! Access control lists: read as the text that archives have, written as the value of the kernel's attributes.
//!
//! The text is that of acl(5): `user::rw-`, `user:1000:r--`, `group::r--`, `mask::r--`, `other::---`, one rule a line
//! (GNU tar) or between commas (star, bsdtar). Names mean nothing on another host. Where a rule has one, star and
//! bsdtar add the number, `user:lisa:r--:1000` (star(5), `SCHILY.acl.access`); GNU tar does not.
//!
//! The value is that of `linux/posix_acl_xattr.h`: a version, then tag, permissions and number of each rule, all in
//! little-endian order, and in the order of the tags.

use std::collections::BTreeMap;

use crate::header::Field;
use crate::pax::digits_value;

/// As many as the value of an attribute (64 KiB) holds.
const MAX_RULES: usize = ((64 << 10) - size_of::<u32>()) / 8;
const VERSION: u32 = 2;
/// The number of a rule that needs none.
const UNDEFINED: u32 = u32::MAX;

/// Whom a rule is for, in the kernel's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Owner,
    User(u32),
    OwningGroup,
    Group(u32),
    Mask,
    Other,
}

/// An ACL that is complete: it has the three rules that the mode has too, and a mask where it needs one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acl(BTreeMap<Who, u16>);

/// What a text says.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// Every rule whose user or group has a number.
    pub(crate) acl: Acl,
    /// The names in the others.
    pub(crate) unknown: Vec<Vec<u8>>,
}

/// One rule of a text: whom it is for, or a name without a number.
struct Rule<'t> {
    who: Result<Who, &'t [u8]>,
    permissions: u16,
}

impl Acl {
    /// Reads a text in either form.
    pub(crate) fn parse(text: &[u8]) -> Field<Parsed> {
        let (mut rules, mut unknown) = (BTreeMap::new(), Vec::new());
        let lines = text.split(|&byte| byte == b'\n').map(without_comment);
        let found = lines.flat_map(|line| line.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
        for text in found.filter(|rule| !rule.is_empty()) {
            if rules.len() + unknown.len() == MAX_RULES {
                return Err(format!("it has more than {MAX_RULES} rules"));
            }
            let rule = Rule::parse(text).ok_or_else(|| format!("'{}' is no rule", start_of(text)))?;
            match rule.who {
                Err(name) => unknown.push(name.to_vec()),
                Ok(who) if rules.insert(who, rule.permissions).is_some() => {
                    return Err(format!("'{}' is its second rule for the same", start_of(text)));
                }
                Ok(_) => {}
            }
        }
        let acl = Self(rules).complete()?;
        Ok(Parsed { acl, unknown })
    }

    fn complete(self) -> Field<Self> {
        let has = |who| self.0.contains_key(&who);
        if !(has(Who::Owner) && has(Who::OwningGroup) && has(Who::Other)) {
            return Err("it lacks a rule for 'user', 'group' or 'other'".to_owned());
        }
        if self.0.keys().any(|who| matches!(who, Who::User(_) | Who::Group(_))) && !has(Who::Mask) {
            return Err("it has no mask".to_owned());
        }
        Ok(self)
    }

    /// The value of `system.posix_acl_access` or `system.posix_acl_default`.
    pub(crate) fn value(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (who, permissions) in &self.0 {
            let (tag, number) = who.tag();
            value.extend([tag.to_le_bytes(), permissions.to_le_bytes()].as_flattened());
            value.extend(number.to_le_bytes());
        }
        value
    }
}

impl Who {
    fn tag(self) -> (u16, u32) {
        match self {
            Self::Owner => (0x01, UNDEFINED),
            Self::User(number) => (0x02, number),
            Self::OwningGroup => (0x04, UNDEFINED),
            Self::Group(number) => (0x08, number),
            Self::Mask => (0x10, UNDEFINED),
            Self::Other => (0x20, UNDEFINED),
        }
    }
}

impl<'t> Rule<'t> {
    fn parse(rule: &'t [u8]) -> Option<Self> {
        let mut fields = rule.split(|&byte| byte == b':').map(<[u8]>::trim_ascii);
        let tag = fields.next()?;
        let rest: Vec<_> = fields.take(4).collect();
        let (name, permissions, number) = match rest[..] {
            // Solaris, and with it star, leaves out the field that is always empty.
            [permissions] if matches!(tag, b"mask" | b"m" | b"other" | b"o") => (&b""[..], permissions, None),
            [name, permissions] => (name, permissions, None),
            [name, permissions, number] if !name.is_empty() => (name, permissions, Some(number)),
            _ => return None,
        };
        let named = |who: fn(u32) -> Who| match number {
            Some(number) => id(number).map(who).map(Ok),
            None if name.iter().all(u8::is_ascii_digit) => id(name).map(who).map(Ok),
            None => Some(Err(name)),
        };
        let who = match tag {
            b"user" | b"u" if name.is_empty() => Ok(Who::Owner),
            b"user" | b"u" => named(Who::User)?,
            b"group" | b"g" if name.is_empty() => Ok(Who::OwningGroup),
            b"group" | b"g" => named(Who::Group)?,
            b"mask" | b"m" if name.is_empty() => Ok(Who::Mask),
            b"other" | b"o" if name.is_empty() => Ok(Who::Other),
            _ => return None,
        };
        Some(Self { who, permissions: self::permissions(permissions)? })
    }
}

fn without_comment(line: &[u8]) -> &[u8] {
    line.split(|&byte| byte == b'#').next().unwrap_or_default()
}

fn id(digits: &[u8]) -> Option<u32> {
    u32::try_from(digits_value(digits)?).ok().filter(|&number| number != UNDEFINED)
}

/// `rwx`, any of them as `-` or, in the short form, left out; in any order.
fn permissions(text: &[u8]) -> Option<u16> {
    if !(1..=3).contains(&text.len()) {
        return None;
    }
    text.iter().try_fold(0, |sum, letter| {
        let bit = match letter {
            b'r' => 4,
            b'w' => 2,
            b'x' => 1,
            b'-' => 0,
            _ => return None,
        };
        (sum & bit == 0).then_some(sum | bit)
    })
}

fn start_of(rule: &[u8]) -> String {
    rule[..rule.len().min(40)].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Acl {
        let parsed = Acl::parse(text.as_bytes()).unwrap();
        assert!(parsed.unknown.is_empty(), "{text}");
        parsed.acl
    }

    #[test]
    fn gnu_tars_and_bsdtars_forms_mean_the_same() {
        let gnu =
            "user::rw-\nuser:1234:rwx\t#effective:r-x\ngroup::r--\ngroup:77:r-x\nmask::r-x\nother::r--\n";
        let bsd = "user::rw-,group::r--,other::r--,user:lisa:rwx:1234,group:77:r-x,mask::r-x";
        let star = "user::rw-,user:lisa:rwx:1234,group::r--,group:staff:r-x:77,mask:r-x,other:r--";
        let short = "u::rw, u:1234:xwr, g::r, g:77:rx, m::rx, o::r";
        for text in [bsd, star, short] {
            assert_eq!(parsed(text), parsed(gnu), "{text}");
        }
    }

    #[test]
    fn the_value_is_the_kernels() {
        let acl = parsed("other::---,user::rwx,user:258:r-x,mask::rwx,group::-w-");
        let none = [0xff; 4];
        let rules = [(1, 7, none), (2, 5, [2, 1, 0, 0]), (4, 2, none), (16, 7, none), (32, 0, none)];
        let mut value = vec![2, 0, 0, 0];
        for (tag, permissions, number) in rules {
            value.extend([[tag, 0, permissions, 0], number].concat());
        }
        assert_eq!(acl.value(), value);
    }

    #[test]
    fn a_name_without_a_number_is_told_and_the_rest_stands() {
        let parsed = Acl::parse(b"user::rwx,user:lisa:rwx,group::r-x,mask::rwx,other::r-x").unwrap();
        assert_eq!(parsed.unknown, [b"lisa"]);
        assert_eq!(parsed.acl, self::parsed("user::rwx,group::r-x,mask::rwx,other::r-x"));
    }

    #[test]
    fn what_is_no_acl_is_refused() {
        let rest = "user::rwx,group::r-x,other::r-x,mask::rwx";
        for bad in [
            "user:1:rwx:",
            "user:lisa:rwx:x",
            "user:lisa:rwx:1:2",
            "user::rwx:0",
            "user:1",
            "user",
            "user:4294967295:rwx",
            "user:4294967296:rwx",
            "user:1:",
            "user:1:rwxr",
            "user:1:rr",
            "user:1:rwt",
            "mask:1:rwx",
            "other:1:rwx",
            "owner@:rwxp::allow",
            "default:user::rwx",
            "user::rwx",
            "user:1:rwx,user:01:rwx",
        ] {
            assert!(Acl::parse(format!("{rest},{bad}").as_bytes()).is_err(), "{bad}");
        }
        for incomplete in ["", "user::rwx,group::rwx", "user::rwx,user:1:rwx,group::rwx,other::rwx"] {
            assert!(Acl::parse(incomplete.as_bytes()).is_err(), "{incomplete}");
        }
    }

    #[test]
    fn as_many_rules_are_taken_as_an_attribute_holds() {
        let text = |users: usize| {
            let users = (0..users).map(|number| format!(",user:{number}:rwx"));
            format!("user::rwx,group::rwx,other::rwx,mask::rwx{}", users.collect::<String>())
        };
        let most = parsed(&text(MAX_RULES - 4)).value().len();
        assert!(most <= 64 << 10 && most + 8 > 64 << 10, "{most}");
        assert!(Acl::parse(text(MAX_RULES - 3).as_bytes()).is_err());
    }

    fn acl() -> impl Strategy<Value = Acl> {
        let rules = prop::collection::btree_map(
            prop_oneof![(0..UNDEFINED).prop_map(Who::User), (0..UNDEFINED).prop_map(Who::Group)],
            0_u16..8,
            0..9,
        );
        (rules, [0_u16..8, 0..8, 0..8, 0..8]).prop_map(|(mut rules, usual)| {
            rules.extend([Who::Owner, Who::OwningGroup, Who::Mask, Who::Other].into_iter().zip(usual));
            Acl(rules)
        })
    }

    /// As GNU tar has it or, with `numbers`, as star has it.
    fn text(rules: &[(Who, u16)], numbers: bool) -> String {
        let rule = |&(who, permissions): &(Who, u16)| {
            let bit = |bit, letter| if permissions & bit == 0 { '-' } else { letter };
            let permissions: String = [bit(4, 'r'), bit(2, 'w'), bit(1, 'x')].iter().collect();
            let named = |tag, number| match numbers {
                true => format!("{tag}:a name:{permissions}:{number}"),
                false => format!("{tag}:{number}:{permissions}"),
            };
            match who {
                Who::Owner => format!("user::{permissions}"),
                Who::User(number) => named("user", number),
                Who::OwningGroup => format!("group::{permissions}"),
                Who::Group(number) => named("group", number),
                Who::Mask => format!("mask::{permissions}"),
                Who::Other => format!("other::{permissions}"),
            }
        };
        rules.iter().map(rule).collect::<Vec<_>>().join(if numbers { "," } else { "\n" })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_as_text_is_read_again_in_any_order(
            (acl, rules) in acl().prop_flat_map(|acl| {
                let rules: Vec<_> = acl.0.iter().map(|(who, permissions)| (*who, *permissions)).collect();
                (Just(acl), Just(rules).prop_shuffle())
            }),
            numbers: bool,
        ) {
            prop_assert_eq!(parsed(&text(&rules, numbers)), acl);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "((user|group|mask|other|u|\\PC)?[:,\n#rwx-]|[0-9]|\\PC){0,40}") {
            let _ = Acl::parse(text.as_bytes());
        }
    }
}

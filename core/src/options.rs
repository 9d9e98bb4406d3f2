//! The options of a driver: a struct whose field docs are the manual.
//!
//! A driver declares its options once, with [`driver_options!`](crate::driver_options), and gets a struct that serde fills and the
//! texts that `mica drivers show` prints. Unknown names and unusable values are refused with the list of those
//! that exist.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::value::{MapDeserializer, StrDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::{Deserialize, forward_to_deserialize_any};

use crate::{Error, Result};

/// The options of one driver as they were given, without the driver's name: `size` and `10G` for
/// `--storage-opt overlay2.size=10G`, `mtu` and `1400` for `-o mtu=1400` of a network.
pub type OptionMap = BTreeMap<String, String>;

/// One option, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionDoc {
    /// Its name without the driver's.
    pub name: &'static str,
    /// The type of its value, as Rust writes it.
    pub kind: &'static str,
    /// Its default, as Rust writes it.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

impl OptionDoc {
    /// What its value looks like, in words.
    pub fn value(&self) -> &'static str {
        let inner =
            self.kind.strip_prefix("Option<").and_then(|kind| kind.strip_suffix('>')).unwrap_or(self.kind);
        match inner.rsplit("::").next().unwrap_or(inner) {
            "bool" => "true or false",
            "u8" | "u16" | "u32" | "u64" => "a whole number",
            "ByteSize" => "a size such as 512M",
            _ => "a word",
        }
    }

    /// Its default as it would be given; `none` where there is no value.
    pub fn default_value(&self) -> &'static str {
        let text = self.default.split(['.', '(']).next().unwrap_or(self.default);
        match text.trim_matches('"') {
            "None" => "none",
            "" => "empty",
            text => text,
        }
    }
}

/// Declares the options of a driver: a struct with `Default` and `Deserialize`, and `DOCS`.
///
/// ```
/// use mica_core::options;
///
/// mica_core::driver_options! {
///     /// What `mica --storage-opt example.NAME=VALUE` sets.
///     pub struct Options {
///         /// Verify each file after it was copied.
///         verify: bool = false,
///         /// The size of a new layer.
///         size: Option<mica_core::ByteSize> = None,
///     }
/// }
///
/// let given = options::OptionMap::from([("verify".to_owned(), "true".to_owned())]);
/// let parsed: Options = options::parse("example", &given, Options::DOCS)?;
/// assert!(parsed.verify && parsed.size.is_none());
/// assert_eq!(Options::DOCS[0].help.trim(), "Verify each file after it was copied.");
/// # Ok::<(), mica_core::Error>(())
/// ```
///
/// The crate that uses it depends on `serde` with `derive`.
#[macro_export]
macro_rules! driver_options {
    ($(#[doc = $about:literal])* $vis:vis struct $Options:ident {
        $($(#[doc = $help:literal])+ $name:ident: $kind:ty = $default:expr),* $(,)?
    }) => {
        $(#[doc = $about])*
        #[derive(Clone, Debug, ::serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        $vis struct $Options { $($(#[doc = $help])+ $vis $name: $kind),* }

        impl ::core::default::Default for $Options {
            fn default() -> Self {
                Self { $($name: $default),* }
            }
        }

        impl $Options {
            /// The options with their docs, in the order of the struct.
            $vis const DOCS: &'static [$crate::OptionDoc] = &[$($crate::OptionDoc {
                name: stringify!($name),
                kind: stringify!($kind),
                default: stringify!($default),
                help: concat!($($help, "\n"),+),
            }),*];
        }
    };
}

/// Fills a storage driver's options. Fails with [`Error::Options`], naming the driver, what is wrong and what exists.
pub fn parse<T: DeserializeOwned>(driver: &str, given: &OptionMap, docs: &[OptionDoc]) -> Result<T> {
    fill(&Words { kind: "storage option", prefix: &format!("{driver}."), of: "this driver" }, given, docs)
}

/// Fills the options of a network, or those that a network driver itself is opened with. Fails with [`Error::Options`],
/// naming the driver, what is wrong and what exists.
pub fn parse_network<T: DeserializeOwned>(driver: &str, given: &OptionMap, docs: &[OptionDoc]) -> Result<T> {
    fill(&Words { kind: "network option", prefix: "", of: &format!("driver '{driver}'") }, given, docs)
}

/// How options are called where they are given.
struct Words<'a> {
    kind: &'a str,
    prefix: &'a str,
    of: &'a str,
}

fn fill<T: DeserializeOwned>(words: &Words<'_>, given: &OptionMap, docs: &[OptionDoc]) -> Result<T> {
    let Words { kind, prefix, of } = words;
    if let Some(unknown) = given.keys().find(|name| docs.iter().all(|doc| doc.name != name.as_str())) {
        let known = docs.iter().map(|doc| format!("{prefix}{}", doc.name)).collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "none".to_owned() } else { known };
        return Err(Error::Options(format!(
            "unknown {kind} '{prefix}{unknown}'; those of {of} are: {known}"
        )));
    }
    let values = given.iter().map(|(name, value)| (name.as_str(), Value { words, name, value }));
    T::deserialize(MapDeserializer::new(values)).map_err(|e: de::value::Error| Error::Options(e.to_string()))
}

/// A value as it was typed, read as what the field asks for.
struct Value<'a> {
    words: &'a Words<'a>,
    name: &'a str,
    value: &'a str,
}

impl Value<'_> {
    fn read<T: FromStr>(&self, wanted: &str) -> Result<T, de::value::Error> {
        self.value.parse().map_err(|_| self.refuse(wanted))
    }

    fn refuse(&self, why: impl fmt::Display) -> de::value::Error {
        let Self { words: Words { kind, prefix, .. }, name, value } = self;
        de::Error::custom(format!("{kind} '{prefix}{name}' is '{value}': {why}"))
    }
}

macro_rules! read_as {
    ($($method:ident $visit:ident $wanted:literal),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
            visitor.$visit(self.read($wanted)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Value<'de> {
    type Error = de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_borrowed_str(self.value).map_err(|e: Self::Error| self.refuse(e))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        let choice: StrDeserializer<'_, Self::Error> = self.value.into_deserializer();
        visitor.visit_enum(choice).map_err(|e| self.refuse(e))
    }

    read_as! {
        deserialize_bool visit_bool "expected 'true' or 'false'",
        deserialize_u8 visit_u8 "expected a number from 0 to 255",
        deserialize_u16 visit_u16 "expected a number from 0 to 65535",
        deserialize_u32 visit_u32 "expected a whole number",
        deserialize_u64 visit_u64 "expected a whole number"
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de> for Value<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// A number of bytes, written as people write it: `512`, `64k`, `10G`, `1.5GiB`. Units are powers of 1024.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse =
            || "not a size; write a number of bytes, or one with k, M, G or T, such as 512M".to_owned();
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit = unit.trim_start().to_ascii_lowercase();
        let shift = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            _ => return Err(refuse()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(1 << shift).map(Self).ok_or_else(refuse);
        }
        let fraction: f64 = number.parse().map_err(|_| refuse())?;
        let bytes = fraction * (1u64 << shift) as f64;
        if bytes < 9e15 { Ok(Self(bytes as u64)) } else { Err(refuse()) }
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 512M")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl fmt::Display for ByteSize {
    /// Three significant digits and a decimal unit, as Docker prints sizes: `331MB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"].iter();
        let mut unit = units.next().unwrap_or(&"B");
        while value >= 999.5 {
            let Some(next) = units.next() else { break };
            (value, unit) = (value / 1000.0, next);
        }
        let digits = if *unit == "B" || value >= 99.95 {
            0
        } else if value >= 9.995 {
            1
        } else {
            2
        };
        write!(f, "{value:.digits$}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    driver_options! {
        /// Options of a test.
        struct Options {
            /// Whether.
            on: bool = true,
            /// How much,
            /// at the most.
            size: Option<ByteSize> = None,
            /// How many.
            count: u32 = 3,
            /// Which.
            name: String = "x".to_owned(),
        }
    }

    fn parse_one(name: &str, value: &str) -> Result<Options> {
        parse("plain", &OptionMap::from([(name.to_owned(), value.to_owned())]), Options::DOCS)
    }

    #[test]
    fn values_are_read_as_their_field_asks() {
        assert!(!parse_one("on", "false").unwrap().on);
        assert_eq!(parse_one("size", "1k").unwrap().size, Some(ByteSize(1024)));
        assert_eq!(parse_one("count", "7").unwrap().count, 7);
        assert_eq!(parse_one("name", "y").unwrap().name, "y");
        assert_eq!(parse::<Options>("plain", &OptionMap::new(), Options::DOCS).unwrap().count, 3);
    }

    #[test]
    fn an_unknown_option_is_refused_with_those_that_exist() {
        let text = parse_one("sise", "1").unwrap_err().to_string();
        assert_eq!(
            text,
            "unknown storage option 'plain.sise'; those of this driver are: plain.on, plain.size, plain.count, plain.name"
        );
    }

    #[test]
    fn an_unusable_value_is_refused_with_what_would_work() {
        for (name, value, part) in [
            ("on", "maybe", "'true' or 'false'"),
            ("size", "big", "such as 512M"),
            ("count", "-1", "whole number"),
        ] {
            let text = parse_one(name, value).unwrap_err().to_string();
            assert!(text.contains(&format!("plain.{name}")) && text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_network_option_is_called_as_it_is_given() {
        let text = |name: &str, value: &str| {
            let given = OptionMap::from([(name.to_owned(), value.to_owned())]);
            parse_network::<Options>("bridge", &given, Options::DOCS).unwrap_err().to_string()
        };
        assert_eq!(
            text("mtuu", "1"),
            "unknown network option 'mtuu'; those of driver 'bridge' are: on, size, count, name"
        );
        assert_eq!(text("on", "no"), "network option 'on' is 'no': expected 'true' or 'false'");
    }

    #[test]
    fn sizes_are_read_and_printed() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("64k", 65536),
            ("10G", 10 << 30),
            ("1.5GiB", 3 << 29),
            ("2 MB", 2 << 20),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap().0, bytes, "{text}");
        }
        for text in ["", "k", "1x", "-1", "99999999999T", "1.2.3", "1kk"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (331_400_000, "331MB"),
            (12_345, "12.3kB"),
            (999_999, "1.00MB"),
        ] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }

    #[test]
    fn docs_hold_every_line() {
        assert_eq!(Options::DOCS[1].help, " How much,\n at the most.\n");
        assert_eq!(Options::DOCS[2].default, "3");
        let words: Vec<_> = Options::DOCS.iter().map(|doc| (doc.value(), doc.default_value())).collect();
        let expected = [
            ("true or false", "true"),
            ("a size such as 512M", "none"),
            ("a whole number", "3"),
            ("a word", "x"),
        ];
        assert_eq!(words, expected);
    }
}

//! Reads JSON into nodes that borrow the texts without escapes.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use zeroize::Zeroizing;

use super::node::{Members, Name, Node};

/// Error: invalid JSON, or deeper than 127 levels. It quotes no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InvalidJson;

/// Reads one document.
///
/// # Errors
/// [`InvalidJson`].
pub(super) fn parse(json: &[u8]) -> Result<Node<'_>, InvalidJson> {
    serde_json::from_slice(json).map_err(|_| InvalidJson)
}

impl<'de> Deserialize<'de> for Node<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Node::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(value).map_or(Node::Uint(value), Node::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Node::Float(value))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Node::Text(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Node::Owned(Zeroizing::new(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut members = Members::new();
        while let Some(member) = entries.next_entry()? {
            members.push(member);
        }
        Ok(Node::Map(members))
    }
}

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_str(NameVisitor)
    }
}

struct NameVisitor;

impl<'de> Visitor<'de> for NameVisitor {
    type Value = Name<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Name::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Name::Owned(Zeroizing::new(name.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_kind_and_members_their_order() {
        let json =
            r#"{"b\n":[null,true,-1,18446744073709551615,2.0],"a":{"x":"y","z":"\ud83d\ude00"}}"#;
        let node = parse(json.as_bytes()).unwrap();
        let Some([(name, Node::List(list)), (other, _)]) = node.members().map(Vec::as_slice) else {
            panic!("no map with a list")
        };
        assert_eq!((name.as_str(), other.as_str()), ("b\n", "a"));
        assert!(matches!(
            list.as_slice(),
            [
                Node::Null,
                Node::Bool(true),
                Node::Int(-1),
                Node::Uint(u64::MAX),
                Node::Float(2.0)
            ]
        ));
        let texts = node.get("a").unwrap();
        assert!(matches!(texts.get("x"), Some(Node::Text("y"))));
        assert!(matches!(texts.get("z"), Some(Node::Owned(text)) if text.as_str() == "\u{1f600}"));
    }

    #[test]
    fn invalid_and_deep_documents_are_refused() {
        let deep = |levels| ["[".repeat(levels), "]".repeat(levels)].concat();
        assert!(parse(deep(127).as_bytes()).is_ok());
        for json in ["", "{} {}", "\u{feff}{}", "\"\\ud83d\"", &deep(128)] {
            assert_eq!(parse(json.as_bytes()).err(), Some(InvalidJson));
        }
    }
}

//! Decodes the protobuf of an object into the JSON that kube-apiserver has of it.

use std::{cell::RefCell, collections::BTreeSet};

use etcd_snapshot::protobuf::{Field, Fields, Malformed};

use super::{
    descriptors::{Descriptors, FieldType, Kind, MessageType, Presence},
    node::{Members, Name, Node},
    special,
};

/// Depth of the deepest message. Only a schema of a custom resource is deep.
const MAX_DEPTH: u32 = 100;

/// Reason why an object is not decoded. It quotes no content.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the type {kind:?} of {api_version:?} is unknown to this program")]
    UnknownType { api_version: String, kind: String },
    #[error("the object is malformed")]
    Malformed(#[from] Malformed),
    #[error("the object is nested too deeply")]
    TooDeep,
    #[error("field {0} has no value of its type")]
    Value(u64),
    #[error("the object contains invalid JSON, or JSON of more than 127 levels")]
    Json,
    #[error("the object is encoded as {0:?}")]
    Encoding(String),
    #[error("the object would be too large as YAML")]
    TooLarge,
}

/// `runtime.Unknown`, after the four bytes before it.
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
    encoding: &'a str,
    content_type: &'a str,
}

/// The first bytes of an object in protobuf.
const MAGIC: &[u8] = b"k8s\0";

/// Decodes an object with its envelope. The second value names the fields that the types of this program
/// lack, such as those of a newer Kubernetes.
///
/// # Errors
/// [`DecodeError`].
pub(super) fn object<'a>(
    types: &'a Descriptors,
    stored: &'a [u8],
) -> Result<(Members<'a>, BTreeSet<String>), DecodeError> {
    let envelope = Envelope::parse(stored.strip_prefix(MAGIC).unwrap_or(stored))?;
    for encoding in [envelope.encoding, envelope.content_type] {
        if !encoding.is_empty() {
            return Err(DecodeError::Encoding(encoding.to_owned()));
        }
    }
    let Envelope {
        api_version, kind, ..
    } = envelope;
    let message = types
        .name_of(api_version, kind)
        .and_then(|name| types.find(&name))
        .ok_or_else(|| DecodeError::UnknownType {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
        })?;
    let mut members = vec![
        (Name::Borrowed("apiVersion"), Node::Text(api_version)),
        (Name::Borrowed("kind"), Node::Text(kind)),
    ];
    let unknown = RefCell::default();
    let decoder = Decoder {
        types,
        unknown: &unknown,
    };
    members.extend(decoder.message(kind, message, envelope.raw, MAX_DEPTH)?);
    Ok((members, unknown.into_inner()))
}

impl<'a> Envelope<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut envelope = Self {
            api_version: "",
            kind: "",
            raw: b"",
            encoding: "",
            content_type: "",
        };
        for field in Fields(bytes) {
            let field = field?;
            match field.number {
                1 => {
                    for field in Fields(field.bytes()?) {
                        let field = field?;
                        match field.number {
                            1 => envelope.api_version = field.text()?,
                            2 => envelope.kind = field.text()?,
                            _ => {}
                        }
                    }
                }
                2 => envelope.raw = field.bytes()?,
                3 => envelope.encoding = field.text()?,
                4 => envelope.content_type = field.text()?,
                _ => {}
            }
        }
        Ok(envelope)
    }
}

/// Decodes messages of known types.
#[derive(Clone, Copy)]
pub(super) struct Decoder<'a, 'u> {
    types: &'a Descriptors,
    unknown: &'u RefCell<BTreeSet<String>>,
}

impl<'a> Decoder<'a, '_> {
    /// The members in the order of the type.
    fn message(
        self,
        kind: &str,
        message: &'a MessageType,
        bytes: &'a [u8],
        depth: u32,
    ) -> Result<Members<'a>, DecodeError> {
        let mut found: Vec<Vec<Field<'a>>> = vec![Vec::new(); message.fields.len()];
        for field in Fields(bytes) {
            let field = field?;
            let place = message
                .fields
                .iter()
                .position(|it| it.number == field.number);
            match place.and_then(|place| found.get_mut(place)) {
                Some(fields) => fields.push(field),
                None => {
                    let name = format!("field {} of {kind}", field.number);
                    self.unknown.borrow_mut().insert(name);
                }
            }
        }

        let mut members = Members::new();
        for (field, found) in message.fields.iter().zip(found) {
            let Some(value) = self.field(field, &found, depth)? else {
                continue;
            };
            let is_omitted = match field.presence {
                Presence::Explicit => matches!(value, Node::Null),
                Presence::NotEmpty => value.is_empty(),
                Presence::Repeated => false,
            };
            match value {
                _ if is_omitted => {}
                Node::Map(inlined) if field.json_name.is_empty() => members.extend(inlined),
                value => members.push((Name::Borrowed(&field.json_name), value)),
            }
        }
        Ok(members)
    }

    fn field(
        self,
        field: &'a FieldType,
        found: &[Field<'a>],
        depth: u32,
    ) -> Result<Option<Node<'a>>, DecodeError> {
        let Some(last) = found.last() else {
            return Ok(None);
        };
        if field.presence != Presence::Repeated {
            return self.value(&field.kind, *last, depth).map(Some);
        }
        if let Some(entry) = self.map_entry(&field.kind) {
            let entries = found.iter().map(|it| self.entry(entry, *it, depth));
            return entries
                .collect::<Result<_, _>>()
                .map(|it| Some(Node::Map(it)));
        }
        let items = found.iter().map(|it| self.value(&field.kind, *it, depth));
        items
            .collect::<Result<_, _>>()
            .map(|it| Some(Node::List(it)))
    }

    fn map_entry(self, kind: &Kind) -> Option<&'a MessageType> {
        let Kind::Message(name) = kind else {
            return None;
        };
        self.types.find(name).filter(|it| it.is_map_entry)
    }

    fn entry(
        self,
        entry: &'a MessageType,
        field: Field<'a>,
        depth: u32,
    ) -> Result<(Name<'a>, Node<'a>), DecodeError> {
        let number = field.number;
        let (mut name, mut value) = ("", None);
        for field in Fields(field.bytes()?) {
            let field = field?;
            match field.number {
                1 => name = field.text()?,
                2 => value = Some(field),
                _ => {}
            }
        }
        let [_, of_value] = entry.fields.as_slice() else {
            return Err(DecodeError::Value(number));
        };
        let value = match value {
            Some(value) => self.value(&of_value.kind, value, depth)?,
            None => match of_value.kind {
                Kind::Text => Node::Text(""),
                Kind::Bytes => Node::Bytes(b""),
                _ => return Err(DecodeError::Value(number)),
            },
        };
        Ok((Name::Borrowed(name), value))
    }

    fn value(self, kind: &'a Kind, field: Field<'a>, depth: u32) -> Result<Node<'a>, DecodeError> {
        Ok(match kind {
            Kind::Bool => Node::Bool(field.varint()? != 0),
            // In two's complement.
            Kind::Int => Node::Int(field.varint()?.cast_signed()),
            Kind::Uint => Node::Uint(field.varint()?),
            Kind::Double => Node::Float(field.double()?),
            Kind::Text => Node::Text(field.text()?),
            Kind::Bytes => Node::Bytes(field.bytes()?),
            Kind::Message(name) => self.named(name, field.bytes()?, depth)?,
        })
    }

    /// A message by the name of its type, which may have a JSON form of its own.
    pub(super) fn named(
        self,
        name: &'a str,
        bytes: &'a [u8],
        depth: u32,
    ) -> Result<Node<'a>, DecodeError> {
        let depth = depth.checked_sub(1).ok_or(DecodeError::TooDeep)?;
        if let Some(special) = special::convert(self, name, bytes, depth)? {
            return Ok(special);
        }
        let message = self.types.find(name).ok_or(DecodeError::Value(0))?;
        let kind = name.rsplit('.').next().unwrap_or_default();
        self.message(kind, message, bytes, depth).map(Node::Map)
    }
}

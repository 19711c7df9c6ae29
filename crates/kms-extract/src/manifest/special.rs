//! Messages with a JSON form of their own.

use etcd_snapshot::protobuf::{Field, Fields};
use jiff::{SignedDuration, civil::date};
use zeroize::Zeroizing;

use super::{
    decode::{DecodeError, Decoder},
    node::Node,
};

const META: &str = ".k8s.io.apimachinery.pkg.apis.meta.v1.";

/// Converts such a message; `None` for all others.
pub(super) fn convert<'a>(
    decoder: Decoder<'a, '_>,
    name: &'a str,
    bytes: &'a [u8],
    depth: u32,
) -> Result<Option<Node<'a>>, DecodeError> {
    let (package, kind) = name.rsplit_once('.').unwrap_or(("", name));
    let is_schema = package.contains(".apiextensions.");
    Ok(Some(match kind {
        "Time" if name.starts_with(META) => time(bytes, "%Y-%m-%dT%H:%M:%SZ")?,
        "MicroTime" if name.starts_with(META) => time(bytes, "%Y-%m-%dT%H:%M:%S%.6fZ")?,
        "Quantity" => Node::Text(last(bytes, 1)?.map_or(Ok("0"), Field::text)?),
        "IntOrString" => int_or_string(bytes)?,
        "RawExtension" | "FieldsV1" => json(bytes)?,
        "JSON" if is_schema => json(bytes)?,
        "ExtraValue" | "Verbs" => texts(bytes, 1)?,
        "JSONSchemaPropsOrBool" => match last(bytes, 2)? {
            Some(schema) => schema_of(decoder, package, schema, depth)?,
            None => Node::Bool(last(bytes, 1)?.map_or(Ok(0), Field::varint)? != 0),
        },
        "JSONSchemaPropsOrArray" => match last(bytes, 1)? {
            Some(schema) => schema_of(decoder, package, schema, depth)?,
            None => all(bytes, 2)?
                .into_iter()
                .map(|schema| schema_of(decoder, package, schema, depth))
                .collect::<Result<_, _>>()
                .map(Node::List)?,
        },
        "JSONSchemaPropsOrStringArray" => match last(bytes, 1)? {
            Some(schema) => schema_of(decoder, package, schema, depth)?,
            None => texts(bytes, 2)?,
        },
        _ => return Ok(None),
    }))
}

/// Whole seconds in field 1, and nanoseconds in field 2; nothing for Go's zero time.
fn time(bytes: &[u8], format: &str) -> Result<Node<'static>, DecodeError> {
    if bytes.is_empty() {
        return Ok(Node::Null);
    }
    let number = |field| -> Result<i64, DecodeError> {
        Ok(last(bytes, field)?
            .map_or(Ok(0), Field::varint)?
            .cast_signed())
    };
    let seconds = SignedDuration::from_secs(number(1)?);
    let nanoseconds = SignedDuration::from_nanos(number(2)?);
    // The last hours of the year 9999 are beyond a `jiff::Timestamp`.
    let epoch = date(1970, 1, 1).at(0, 0, 0, 0);
    let time = epoch.checked_add(seconds);
    let time = time.and_then(|it| it.checked_add(nanoseconds));
    let time = time.map_err(|_| DecodeError::Value(1))?;
    let text = time.strftime(format).to_string();
    Ok(Node::Owned(Zeroizing::new(text)))
}

/// Field 1 selects the number in field 2 or the text in field 3.
fn int_or_string(bytes: &[u8]) -> Result<Node<'_>, DecodeError> {
    let is_text = last(bytes, 1)?.map_or(Ok(0), Field::varint)? == 1;
    Ok(match is_text {
        true => Node::Text(last(bytes, 3)?.map_or(Ok(""), Field::text)?),
        false => Node::Int(last(bytes, 2)?.map_or(Ok(0), Field::varint)?.cast_signed()),
    })
}

/// JSON in field 1.
fn json(bytes: &[u8]) -> Result<Node<'_>, DecodeError> {
    match last(bytes, 1)?.map_or(Ok(&b""[..]), Field::bytes)? {
        b"" => Ok(Node::Null),
        raw => super::json::parse(raw).map_err(|_| DecodeError::Json),
    }
}

fn texts(bytes: &[u8], number: u64) -> Result<Node<'_>, DecodeError> {
    let texts = all(bytes, number)?.into_iter();
    let texts: Result<_, _> = texts.map(|it| it.text().map(Node::Text)).collect();
    Ok(Node::List(texts?))
}

/// The schema of a field, which may be recursive.
fn schema_of<'a>(
    decoder: Decoder<'a, '_>,
    package: &str,
    field: Field<'a>,
    depth: u32,
) -> Result<Node<'a>, DecodeError> {
    let name = match package.ends_with(".v1") {
        true => ".k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
        false => ".k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1beta1.JSONSchemaProps",
    };
    decoder.named(name, field.bytes()?, depth)
}

fn all(bytes: &[u8], number: u64) -> Result<Vec<Field<'_>>, DecodeError> {
    let mut found = Vec::new();
    for field in Fields(bytes) {
        let field = field?;
        if field.number == number {
            found.push(field);
        }
    }
    Ok(found)
}

fn last(bytes: &[u8], number: u64) -> Result<Option<Field<'_>>, DecodeError> {
    Ok(all(bytes, number)?.pop())
}

//! The DSSE envelope (Dead Simple Signing Envelope, version 1) of a statement.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use serde::{Deserialize, Serialize};

use super::public_key::PublicKey;

/// Media type of the payload.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// Largest accepted envelope in bytes. A statement with a thousand versions has 200 KB.
pub const MAX_BYTES: usize = 1 << 20;

/// A payload with its signatures.
#[derive(Debug, Clone)]
pub struct Envelope {
    payload: Vec<u8>,
    signatures: Vec<Signature>,
}

#[derive(Debug, Clone)]
struct Signature {
    key_id: String,
    bytes: Vec<u8>,
}

/// Error: the bytes are no DSSE envelope of an in-toto statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MalformedEnvelope {
    #[error("the file is larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("the file is no DSSE envelope in JSON")]
    Json,
    #[error("the payload is of another type than {PAYLOAD_TYPE}")]
    PayloadType,
    #[error("the payload or a signature is not in Base64")]
    Base64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnvelopeJson {
    payload: String,
    payload_type: String,
    signatures: Vec<SignatureJson>,
}

#[derive(Serialize, Deserialize)]
struct SignatureJson {
    // Optional in DSSE.
    #[serde(default)]
    keyid: Option<String>,
    sig: String,
}

/// The signed bytes: pre-authentication encoding (PAE) of type and payload.
#[must_use]
pub fn encoded(payload: &[u8]) -> Vec<u8> {
    let (type_size, size) = (PAYLOAD_TYPE.len(), payload.len());
    let mut bytes = format!("DSSEv1 {type_size} {PAYLOAD_TYPE} {size} ").into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

impl Envelope {
    /// An envelope with one signature over [`encoded`].
    #[must_use]
    pub fn signed(payload: Vec<u8>, key_id: &str, signature: Vec<u8>) -> Self {
        Self {
            payload,
            signatures: vec![Signature {
                key_id: key_id.to_owned(),
                bytes: signature,
            }],
        }
    }

    /// Reads an envelope without verifying it.
    ///
    /// # Errors
    /// [`MalformedEnvelope`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MalformedEnvelope> {
        if bytes.len() > MAX_BYTES {
            return Err(MalformedEnvelope::TooLarge);
        }
        let json: EnvelopeJson =
            serde_json::from_slice(bytes).map_err(|_| MalformedEnvelope::Json)?;
        if json.payload_type != PAYLOAD_TYPE {
            return Err(MalformedEnvelope::PayloadType);
        }
        // DSSE allows both alphabets.
        let decode = |text: &str| {
            let bytes = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text));
            bytes.map_err(|_| MalformedEnvelope::Base64)
        };
        let signature = |json: SignatureJson| {
            Ok(Signature {
                bytes: decode(&json.sig)?,
                key_id: json.keyid.unwrap_or_default(),
            })
        };
        Ok(Self {
            payload: decode(&json.payload)?,
            signatures: json
                .signatures
                .into_iter()
                .map(signature)
                .collect::<Result<_, _>>()?,
        })
    }

    /// One line of JSON.
    #[must_use]
    pub fn encode(&self) -> String {
        let signature = |signature: &Signature| SignatureJson {
            keyid: Some(signature.key_id.clone()),
            sig: STANDARD.encode(&signature.bytes),
        };
        let json = EnvelopeJson {
            payload: STANDARD.encode(&self.payload),
            payload_type: PAYLOAD_TYPE.to_owned(),
            signatures: self.signatures.iter().map(signature).collect(),
        };
        // Texts always serialize.
        serde_json::to_string(&json).unwrap_or_default() + "\n"
    }

    /// The payload, if one of the signatures is by this key.
    #[must_use]
    pub fn payload_signed_by(&self, key: &PublicKey) -> Option<&[u8]> {
        let signed = encoded(&self.payload);
        let mut signatures = self.signatures.iter();
        let found = signatures.any(|signature| key.verify(&signed, &signature.bytes));
        found.then_some(&*self.payload)
    }

    /// Key IDs of the signatures, which nothing proves.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.signatures.iter().map(|it| &*it.key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signed_bytes_are_those_of_dsse() {
        assert_eq!(
            encoded(b"{}"),
            b"DSSEv1 28 application/vnd.in-toto+json 2 {}"
        );
    }

    #[test]
    fn an_envelope_in_another_form_is_refused() {
        let good = Envelope::signed(b"{}".to_vec(), "id", b"signature".to_vec()).encode();
        assert_eq!(
            Envelope::decode(good.as_bytes()).unwrap().encode(),
            good,
            "reading and writing"
        );
        let other = good
            .replace(
                &STANDARD.encode("signature"),
                &URL_SAFE.encode(b"\xff\xfe?"),
            )
            .replace("\"id\"", "null");
        let other = Envelope::decode(other.as_bytes()).unwrap();
        assert_eq!(other.signatures[0].bytes, b"\xff\xfe?");
        assert_eq!(other.key_ids().collect::<Vec<_>>(), [""]);
        let with = |from: &str, to: &str| {
            assert!(good.contains(from), "{good}");
            Envelope::decode(good.replace(from, to).as_bytes()).unwrap_err()
        };
        assert_eq!(with("in-toto", "other"), MalformedEnvelope::PayloadType);
        assert_eq!(with("e30=", "e30"), MalformedEnvelope::Base64);
        assert_eq!(with("\"sig\"", "\"signature\""), MalformedEnvelope::Json);
        assert_eq!(with("}\n", "}\n{}"), MalformedEnvelope::Json);
        let large = vec![b' '; MAX_BYTES + 1];
        assert_eq!(
            Envelope::decode(&large).unwrap_err(),
            MalformedEnvelope::TooLarge
        );
    }
}

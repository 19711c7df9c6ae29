//! The size limits of KMS v2 messages.
//! Implements `docs/format/associated-data.md` section 4.
//!
//! Kubernetes refuses to store larger values, so the limits apply to requests and responses alike.

/// Maximum size of a gRPC message in either direction, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 65_536;

const KEY_ID_BELOW: usize = 1024;
const CIPHERTEXT_BELOW: usize = 1024;
const ANNOTATIONS_BELOW: usize = 32_768;

/// A message part above its limit (class `protocol_limit`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {part} has {bytes} bytes and must have fewer than {below}")]
pub struct LimitExceeded {
    part: &'static str,
    bytes: usize,
    below: usize,
}

/// Checks the ciphertext, then the `key_id`, then the sum of all annotation keys and values.
///
/// # Errors
/// The first part above its limit, with its size.
pub fn check_sizes<'a>(
    ciphertext: &[u8],
    key_id: &str,
    annotations: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<(), LimitExceeded> {
    let annotations = annotations
        .into_iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    for (part, bytes, below) in [
        ("ciphertext", ciphertext.len(), CIPHERTEXT_BELOW),
        ("key_id", key_id.len(), KEY_ID_BELOW),
        ("annotation map", annotations, ANNOTATIONS_BELOW),
    ] {
        if bytes >= below {
            return Err(LimitExceeded { part, bytes, below });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_the_first_size_that_is_refused() {
        let text = "a".repeat(32_768);
        let sizes = |ciphertext: usize, key_id: usize, value: usize| {
            let entry = ("k.e", &text.as_bytes()[..value]);
            check_sizes(&text.as_bytes()[..ciphertext], &text[..key_id], [entry])
        };
        assert_eq!(sizes(1023, 1023, 32_764), Ok(()));
        for (case, part) in [
            (sizes(1024, 1024, 32_765), "ciphertext"),
            (sizes(1023, 1024, 32_765), "key_id"),
            (sizes(1023, 1023, 32_765), "annotation map"),
        ] {
            assert_eq!(case.unwrap_err().part, part);
        }
    }
}

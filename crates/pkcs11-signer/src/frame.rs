//! The messages between the processes: one datagram each, of a kind, a number and a JSON body.

use std::path::PathBuf;

use rustix::{
    fd::{AsFd, OwnedFd},
    io::{self, Errno},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::{Zeroize, Zeroizing};

use crate::problem::TokenProblem;

/// Longest message. A PIN has at most 4096 bytes.
const LONGEST: usize = 32 << 10;
const HEADER: usize = 9;

/// A key on a token, by its labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenKey {
    /// Absolute path of the module.
    pub module: PathBuf,
    /// Label of the token.
    pub token: String,
    /// Label of the private key.
    pub key: String,
}

/// Opens a key. The PIN is wiped on drop.
#[derive(Serialize, Deserialize)]
pub(crate) struct Open {
    pub(crate) key: TokenKey,
    pub(crate) pin: String,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.pin.zeroize();
    }
}

/// Signs `data`: a digest, or for Ed25519 the message.
#[derive(Serialize, Deserialize)]
pub(crate) struct Sign {
    pub(crate) mechanism: Mechanism,
    pub(crate) data: Vec<u8>,
}

/// A signature mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mechanism {
    /// ECDSA over a digest; the signature is `r` and `s`, of equal length.
    Ecdsa,
    /// Ed25519 over the message.
    Ed25519,
    /// RSA-PSS over a SHA-256 digest.
    PssSha256,
    /// RSA-PSS over a SHA-384 digest.
    PssSha384,
    /// RSA-PSS over a SHA-512 digest.
    PssSha512,
}

/// Type of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyKind {
    /// ECDSA on the curve P-256.
    P256,
    /// ECDSA on the curve P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA.
    Rsa,
}

/// Result of a call.
pub(crate) type Reply<T> = Result<T, TokenProblem>;

/// Kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Body [`Open`]: starts a worker.
    Open = 1,
    /// Body [`Sign`], for the worker.
    Sign = 2,
    /// Kills the worker; without an answer.
    Close = 3,
    /// Body [`Reply`].
    Answer = 4,
}

/// A received or composed message. Drop wipes it.
pub(crate) struct Frame(Zeroizing<Vec<u8>>);

impl Frame {
    /// `None` if the body is too long.
    pub(crate) fn new(kind: Kind, number: u64, body: &impl Serialize) -> Option<Self> {
        // With the full capacity at once, so that no copy of the PIN stays behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST));
        bytes.push(kind as u8);
        bytes.extend(number.to_le_bytes());
        serde_json::to_writer(&mut *bytes, body).ok()?;
        (bytes.len() <= LONGEST).then_some(Self(bytes))
    }

    /// Receives the next message; `None` at the end.
    pub(crate) fn receive(channel: impl AsFd) -> io::Result<Option<Self>> {
        let mut bytes = Zeroizing::new(vec![0; LONGEST]);
        let (length, _) = loop {
            match recv(&channel, bytes.as_mut_slice(), RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                received => break received?,
            }
        };
        bytes.truncate(length);
        Ok((length >= HEADER).then_some(Self(bytes)))
    }

    pub(crate) fn send(&self, channel: impl AsFd) -> io::Result<()> {
        loop {
            match send(&channel, &self.0, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                sent => return sent.map(|_| ()),
            }
        }
    }

    pub(crate) fn kind(&self) -> Option<Kind> {
        let kinds = [Kind::Open, Kind::Sign, Kind::Close, Kind::Answer];
        let first = *self.0.first()?;
        kinds.into_iter().find(|kind| *kind as u8 == first)
    }

    pub(crate) fn number(&self) -> Option<u64> {
        let bytes = self.0.get(1..HEADER)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    pub(crate) fn body<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(self.0.get(HEADER..)?).ok()
    }
}

/// Both ends of a channel. It keeps the borders of messages.
pub(crate) fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}

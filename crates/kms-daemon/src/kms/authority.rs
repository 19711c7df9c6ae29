//! Accepts connections from the API servers of Kubernetes 1.29 to 1.31.
//!
//! Their gRPC library sends the percent-encoded path of the socket as `:authority`
//! (`%2Frun%2Fkms.sock`). h2, the HTTP/2 layer below tonic, resets a request with a `%` in its
//! authority and has no setting for it. Therefore [`AuthorityRewriter`] filters the bytes of each
//! connection and replaces each `%` of an authority with a `.`. The provider itself ignores the
//! authority.
//!
//! Each change affects one byte or one bit in place. All lengths stay the same: of the value, its
//! encoding, the header block and the frame. The compression tables of the client and of h2
//! therefore keep the same sizes, entry by entry, for every index, eviction and reference (RFC 7541
//! section 4). The rewriter needs no buffering or allocation and works with any split of the bytes
//! into reads. A shorter replacement would have to delay each frame until its new length is known,
//! and h2 would keep entries already evicted by the client.
//!
//! Unrecognized input ends the rewriting: h2 then receives all further bytes unchanged, and handles
//! them.

use std::mem;

/// The connection preface `PRI * HTTP/2.0...`; h2 closes a connection with any other.
pub const PREFACE_BYTES: usize = 24;

/// Length of a frame header (RFC 9113 section 4.1).
const HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// Stream dependency and weight.
const PRIORITY_BYTES: usize = 5;

/// `:authority` in the static table (RFC 7541 appendix A). A literal name, or one from the dynamic
/// table, is ignored: gRPC clients send neither.
const AUTHORITY: usize = 1;
/// h2 rejects longer integers.
const MAX_SHIFT: u32 = 28;

/// Rewrites the `:authority` values sent by the client of one connection.
#[derive(Debug)]
pub struct AuthorityRewriter(Option<Frames>);

impl AuthorityRewriter {
    /// For a connection before its first read.
    #[must_use]
    pub fn new() -> Self {
        Self(Some(Frames {
            skip: PREFACE_BYTES,
            fields: 0,
            padding: 0,
            head: [0; HEAD_BYTES + 1],
            head_bytes: 0,
            unfinished: false,
            block: Block::Field,
        }))
    }

    /// Rewrites the next bytes read.
    pub fn pass(&mut self, bytes: &mut [u8]) {
        if let Some(frames) = &mut self.0
            && frames.pass(bytes).is_err()
        {
            self.0 = None;
        }
    }
}

impl Default for AuthorityRewriter {
    fn default() -> Self {
        Self::new()
    }
}

/// The input is invalid HTTP/2, or unusual for a gRPC client.
struct NotUnderstood;

/// Parser state at the level of frames.
#[derive(Debug)]
struct Frames {
    /// Remaining bytes of the current frame, in order: skipped bytes, a part of a header block,
    /// padding.
    skip: usize,
    fields: usize,
    padding: usize,
    /// The header of the next frame as received so far, including the padding length if present.
    head: [u8; HEAD_BYTES + 1],
    head_bytes: usize,
    /// Whether the header block continues in the next frame.
    unfinished: bool,
    block: Block,
}

impl Frames {
    fn pass(&mut self, mut bytes: &mut [u8]) -> Result<(), NotUnderstood> {
        while let Some((first, _)) = bytes.split_first() {
            if self.skip > 0 {
                take(&mut self.skip, &mut bytes);
            } else if self.fields > 0 {
                self.block.pass(take(&mut self.fields, &mut bytes))?;
            } else if self.padding > 0 {
                take(&mut self.padding, &mut bytes);
            } else {
                self.head(*first)?;
                take(&mut 1, &mut bytes);
            }
        }
        Ok(())
    }

    /// Adds one byte to the frame header, and enters the frame once the header is complete.
    fn head(&mut self, byte: u8) -> Result<(), NotUnderstood> {
        let next = self.head.get_mut(self.head_bytes).ok_or(NotUnderstood)?;
        *next = byte;
        self.head_bytes += 1;

        let [high, middle, low, kind, flags, .., padding] = self.head;
        let padded = usize::from(kind == HEADERS && flags & PADDED != 0);
        if self.head_bytes < HEAD_BYTES + padded {
            return Ok(());
        }

        self.head_bytes = 0;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        match (kind, self.unfinished) {
            (HEADERS, false) => {
                self.block = Block::Field;
                self.skip = PRIORITY_BYTES * usize::from(flags & PRIORITY != 0);
                self.padding = usize::from(padding) * padded;
                self.fields = length
                    .checked_sub(padded + self.skip + self.padding)
                    .ok_or(NotUnderstood)?;
            }
            (CONTINUATION, true) => self.fields = length,
            // The parts of a header block must be contiguous.
            (CONTINUATION, false) | (_, true) => return Err(NotUnderstood),
            (_, false) => {
                self.skip = length;
                return Ok(());
            }
        }
        self.unfinished = flags & END_HEADERS == 0;
        Ok(())
    }
}

/// Parser state within a header block (RFC 7541 sections 5 and 6).
#[derive(Debug)]
enum Block {
    /// Before the first byte of a field.
    Field,
    /// In an integer of more than one byte.
    Number {
        number: Number,
        value: usize,
        shift: u32,
    },
    /// Before the length of a string.
    Length(Text),
    /// In a string.
    Text {
        text: Text,
        left: usize,
        coding: Coding,
    },
}

#[derive(Debug, Clone, Copy)]
enum Number {
    /// The index of a complete field, or a new size of the table.
    Other,
    NameIndex,
    Length(Text, Coding),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Text {
    Name,
    Value,
    Authority,
}

#[derive(Debug, Clone, Copy)]
enum Coding {
    Plain,
    Huffman(Symbol),
}

impl Block {
    fn pass(&mut self, mut bytes: &mut [u8]) -> Result<(), NotUnderstood> {
        while let Some((first, _)) = bytes.split_first() {
            if let Self::Text { text, left, coding } = self {
                let now = take(left, &mut bytes);
                if *text == Text::Authority {
                    coding.repair(now)?;
                }
                if *left == 0 {
                    *self = text.end();
                }
            } else {
                *self = self.after(*first)?;
                take(&mut 1, &mut bytes);
            }
        }
        Ok(())
    }

    /// The state after a byte outside of strings.
    fn after(&self, byte: u8) -> Result<Self, NotUnderstood> {
        match *self {
            Self::Field if byte & 0x80 != 0 => Ok(Number::Other.begin(byte, 0x7f)),
            Self::Field if byte & 0x40 != 0 => Ok(Number::NameIndex.begin(byte, 0x3f)),
            Self::Field if byte & 0x20 != 0 => Ok(Number::Other.begin(byte, 0x1f)),
            Self::Field => Ok(Number::NameIndex.begin(byte, 0x0f)),
            Self::Length(text) => {
                let coding = match byte & 0x80 {
                    0 => Coding::Plain,
                    _ => Coding::Huffman(Symbol::default()),
                };
                Ok(Number::Length(text, coding).begin(byte, 0x7f))
            }
            Self::Number {
                number,
                value,
                shift,
            } => {
                let value = value + (usize::from(byte & 0x7f) << shift);
                let shift = shift + 7;
                match byte & 0x80 {
                    0 => Ok(number.end(value)),
                    _ if shift == MAX_SHIFT => Err(NotUnderstood),
                    _ => Ok(Self::Number {
                        number,
                        value,
                        shift,
                    }),
                }
            }
            Self::Text { .. } => Err(NotUnderstood),
        }
    }
}

impl Number {
    /// Starts an integer with its first byte; `mask` selects the value bits.
    fn begin(self, byte: u8, mask: u8) -> Block {
        let value = usize::from(byte & mask);
        if byte & mask < mask {
            return self.end(value);
        }
        Block::Number {
            number: self,
            value,
            shift: 0,
        }
    }

    fn end(self, value: usize) -> Block {
        match self {
            Self::Other => Block::Field,
            Self::NameIndex => Block::Length(match value {
                0 => Text::Name,
                AUTHORITY => Text::Authority,
                _ => Text::Value,
            }),
            Self::Length(text, _) if value == 0 => text.end(),
            Self::Length(text, coding) => Block::Text {
                text,
                left: value,
                coding,
            },
        }
    }
}

impl Text {
    fn end(self) -> Block {
        match self {
            Self::Name => Block::Length(Self::Value),
            Self::Value | Self::Authority => Block::Field,
        }
    }
}

impl Coding {
    fn repair(&mut self, authority: &mut [u8]) -> Result<(), NotUnderstood> {
        for byte in authority {
            match self {
                Self::Plain if *byte == b'%' => *byte = b'.',
                Self::Plain => {}
                Self::Huffman(symbol) => symbol.repair(byte)?,
            }
        }
        Ok(())
    }
}

/// The bits so far of a Huffman-coded symbol (RFC 7541 appendix B).
#[derive(Debug, Clone, Copy, Default)]
struct Symbol {
    bits: u16,
    length: u8,
}

impl Symbol {
    /// A `%` is 010101 and a `.` is 010111, so the fifth bit is set in passing. The only other
    /// symbol starting with 01010 is the space, 010100, which h2 rejects as well; it becomes a `-`,
    /// 010110.
    fn repair(&mut self, byte: &mut u8) -> Result<(), NotUnderstood> {
        for mask in (0..8).rev().map(|place| 1 << place) {
            self.length += 1;
            self.bits = self.bits << 1 | u16::from(*byte & mask != 0);
            if (self.length, self.bits) == (5, 0b01010) {
                *byte |= mask;
                self.bits |= 1;
            }
            if self.is_whole() {
                *self = Self::default();
            } else if self.length == 15 {
                // Longer codes belong to bytes invalid in an authority.
                return Err(NotUnderstood);
            }
        }
        Ok(())
    }

    /// Codes of one length are consecutive, and longer codes begin with higher bits. Bits above the
    /// highest code of their length are therefore the prefix of a longer code.
    fn is_whole(self) -> bool {
        let highest = match self.length {
            5 => 0x0009,
            6 => 0x002d,
            7 => 0x007b,
            8 => 0x00fd,
            10 => 0x03fc,
            11 => 0x07fc,
            12 => 0x0ffb,
            13 => 0x1ffd,
            14 => 0x3ffd,
            15 => 0x7ffe,
            _ => return false,
        };
        self.bits <= highest
    }
}

/// Takes up to `left` bytes off the front of `bytes`.
fn take<'a>(left: &mut usize, bytes: &mut &'a mut [u8]) -> &'a mut [u8] {
    let count = bytes.len().min(*left);
    let (now, rest) = mem::take(bytes).split_at_mut(count);
    *left -= count;
    *bytes = rest;
    now
}

#[cfg(test)]
mod tests;

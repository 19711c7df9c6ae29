//! Lets the API servers of Kubernetes 1.29 to 1.31 call us.
//!
//! Their gRPC library sends the percent-encoded path of the socket as `:authority`
//! (`%2Frun%2Fkms.sock`). h2, below tonic, resets a request whose authority has a `%`, and has no
//! setting against it. So the bytes of a connection pass through [`Repair`] on their way to h2,
//! which makes each `%` of an authority a `.`. No part of the provider reads an authority.
//!
//! A change is one byte or one bit, where it lies. No length changes: not of the value, its
//! encoding, the header block or the frame. So the client's compression table and h2's stay of the
//! same size, entry by entry, whatever the client indexes, evicts or refers to (RFC 7541 section 4),
//! nothing is held back or allocated, and it does not matter how the bytes are cut into reads. A
//! short authority in place of the path would mean holding each frame back until its new length is
//! known, and h2 would keep entries that the client has evicted.
//!
//! What cannot be understood ends the repair: from there on h2 gets the bytes as they came, and
//! answers them.

use std::mem;

/// The connection preface, `PRI * HTTP/2.0` and so on; h2 closes a connection with any other.
pub const PREFACE_BYTES: usize = 24;

/// What every frame begins with (RFC 9113 section 4.1).
const HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// Stream dependency and weight.
const PRIORITY_BYTES: usize = 5;

/// `:authority` in the static table (RFC 7541 appendix A). A name that is spelled out, or taken
/// from the dynamic table, is not recognised: gRPC clients send neither.
const AUTHORITY: usize = 1;
/// An integer of more bytes is refused by h2.
const MAX_SHIFT: u32 = 28;

/// Repairs the authorities in what a client sends on one connection.
#[derive(Debug)]
pub struct Repair(Option<Frames>);

impl Repair {
    /// For a connection of which nothing has been read yet.
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

    /// Repairs the bytes that were read next.
    pub fn pass(&mut self, bytes: &mut [u8]) {
        if let Some(frames) = &mut self.0
            && frames.pass(bytes).is_err()
        {
            self.0 = None;
        }
    }
}

impl Default for Repair {
    fn default() -> Self {
        Self::new()
    }
}

/// Not HTTP/2, or not as a gRPC client speaks it.
struct NotUnderstood;

/// How far the frames have been followed.
#[derive(Debug)]
struct Frames {
    /// What is left of the frame under way: first bytes of no interest, then a part of a header
    /// block, then padding.
    skip: usize,
    fields: usize,
    padding: usize,
    /// The head of the next frame as far as it has come, with the padding's length if it has one.
    head: [u8; HEAD_BYTES + 1],
    head_bytes: usize,
    /// Whether the header block goes on in the next frame.
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

    /// Takes one byte of a frame's head, and enters the frame once the head is whole.
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
            // Nothing may come between the parts of a header block.
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

/// How far a header block has been followed (RFC 7541 sections 5 and 6).
#[derive(Debug)]
enum Block {
    /// Before the first byte of a field.
    Field,
    /// In an integer that goes on after its first byte.
    Number {
        number: Number,
        value: usize,
        shift: u32,
    },
    /// Before the length of a text.
    Length(Text),
    /// In a text.
    Text {
        text: Text,
        left: usize,
        coding: Coding,
    },
}

#[derive(Debug, Clone, Copy)]
enum Number {
    /// The index of a whole field, or a new size of the table.
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

    /// Where a byte outside of a text leads.
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
    /// The first byte of an integer, of which the bits of `mask` count.
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
    /// A `%` is 010101 and a `.` is 010111, so the fifth bit is set as it comes by. What else
    /// begins with 01010 is the space, 010100, which h2 refuses as well and becomes a `-`, 010110.
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
                // Longer ones are of bytes that no authority has.
                return Err(NotUnderstood);
            }
        }
        Ok(())
    }

    /// The codes of one length follow each other, and longer ones begin with higher bits: bits
    /// above the highest code of their length are the beginning of a longer one.
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

//! Iterates over the fields of a protobuf message, without copying.

/// A truncated message, or one with an impossible field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The message ends inside a field.
    #[error("the message ends inside a field")]
    CutOff,
    /// A number of more than 64 bits.
    #[error("a number has more than 64 bits")]
    Overflow,
    /// An impossible field number or wire type.
    #[error("a field has an impossible tag")]
    Tag,
    /// A known field has another wire type.
    #[error("field {number} has a wrong wire type")]
    WireType {
        /// Number of the field.
        number: u64,
    },
    /// A text is not UTF-8.
    #[error("field {number} is not UTF-8")]
    NotUtf8 {
        /// Number of the field.
        number: u64,
    },
}

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// Number of the field.
    pub number: u64,
    content: Content<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Fixed64([u8; 8]),
    /// A fixed-size field; no used field has this type.
    Fixed32,
}

impl<'a> Field<'a> {
    /// A number, in two's complement if it is negative.
    ///
    /// # Errors
    /// [`Malformed::WireType`].
    pub fn varint(self) -> Result<u64, Malformed> {
        match self.content {
            Content::Varint(value) => Ok(value),
            _ => Err(self.wrong_type()),
        }
    }

    /// Bytes, or a message.
    ///
    /// # Errors
    /// [`Malformed::WireType`].
    pub fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self.content {
            Content::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong_type()),
        }
    }

    /// A floating-point number of 64 bits.
    ///
    /// # Errors
    /// [`Malformed::WireType`].
    pub fn double(self) -> Result<f64, Malformed> {
        match self.content {
            Content::Fixed64(bytes) => Ok(f64::from_le_bytes(bytes)),
            _ => Err(self.wrong_type()),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// [`Malformed::WireType`] or [`Malformed::NotUtf8`].
    pub fn text(self) -> Result<&'a str, Malformed> {
        let number = self.number;
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::NotUtf8 { number })
    }

    fn wrong_type(self) -> Malformed {
        Malformed::WireType {
            number: self.number,
        }
    }
}

/// The fields of a message, in its order. Iteration ends after an error.
#[derive(Debug, Clone)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<Field<'a>, Malformed> {
        let tag = self.number()?;
        let number = tag >> 3;
        if !(1..1 << 29).contains(&number) {
            return Err(Malformed::Tag);
        }
        let content = match tag & 7 {
            0 => Content::Varint(self.number()?),
            1 => {
                let (bytes, rest) = self.0.split_first_chunk().ok_or(Malformed::CutOff)?;
                self.0 = rest;
                Content::Fixed64(*bytes)
            }
            2 => {
                let length = self.number()?;
                Content::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => self.take(4).map(|_| Content::Fixed32)?,
            // Group wire types were deprecated before this format existed.
            _ => return Err(Malformed::Tag),
        };
        Ok(Field { number, content })
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(Malformed::CutOff)?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && byte > 1 {
                return Err(Malformed::Overflow);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Overflow)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::CutOff)?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_in_the_order_of_the_message() {
        let message = b"\x08\x96\x01\x12\x02hi\x1d....\x21........\x12\0";
        let fields: Result<Vec<_>, _> = Fields(message).collect();
        let fields = fields.unwrap();
        assert_eq!(fields[0].varint(), Ok(150));
        assert_eq!(fields[1].text(), Ok("hi"));
        assert_eq!(fields[2].number, 3);
        assert_eq!(fields[2].bytes(), Err(Malformed::WireType { number: 3 }));
        assert_eq!(fields[3].varint(), Err(Malformed::WireType { number: 4 }));
        assert_eq!(fields[4].bytes(), Ok(&b""[..]));
        assert_eq!(fields.len(), 5);
    }

    #[test]
    fn every_malformed_message_says_why() {
        for (message, why) in [
            (&b"\x80"[..], Malformed::CutOff),
            (b"\x08", Malformed::CutOff),
            (b"\x0a\x02a", Malformed::CutOff),
            (
                b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
                Malformed::CutOff,
            ),
            (b"\x09.......", Malformed::CutOff),
            (
                b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
                Malformed::Overflow,
            ),
            (
                b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00",
                Malformed::Overflow,
            ),
            (b"\x00\x00", Malformed::Tag),
            (b"\x0b", Malformed::Tag),
            (b"\x0f", Malformed::Tag),
        ] {
            let mut fields = Fields(message);
            assert_eq!(fields.next(), Some(Err(why)), "{message:02x?}");
            assert_eq!(fields.next(), None);
        }
        let field = Fields(b"\x0a\x01\xff").next().unwrap().unwrap();
        assert_eq!(field.text(), Err(Malformed::NotUtf8 { number: 1 }));
    }
}

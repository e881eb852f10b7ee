//! The strict scanner: looks at protobuf bytes before `prost` does, so that each message has few encodings and no
//! surprise. Field numbers ascend, singular fields come at most once, varints are minimal, wire types and lengths are
//! as declared, nothing is left over. Unknown fields are refused in wrappers and skipped in signed payloads.

/// What a field may look like.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A varint of at most 32 bits.
    U32,
    /// A varint of at most 64 bits.
    U64,
    /// A varint of 0 or 1.
    Bool,
    /// Length-delimited, `min..=max` bytes.
    Bytes { min: usize, max: usize },
    /// UTF-8, at most so many bytes.
    Text { max: usize },
    /// A message inside, at most so many bytes, scanned with its own shape.
    Message { max: usize, shape: &'static Shape },
}

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    pub number: u32,
    pub kind: Kind,
    /// How often it may come; 1 = singular.
    pub at_most: usize,
}

/// A message as the scanner knows it; fields ascending.
#[derive(Debug)]
pub struct Shape {
    pub fields: &'static [Field],
    /// Signed payloads may be extended by newer versions; wrappers never.
    pub unknown_allowed: bool,
}

/// Why bytes are not of the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    #[error("cut short")]
    CutShort,
    #[error("a number is not minimally encoded or too large")]
    Varint,
    #[error("fields are out of order or repeated")]
    Order,
    #[error("a field has the wrong type")]
    WireType,
    #[error("a field is too short or too long")]
    Length,
    #[error("an unknown field")]
    Unknown,
    #[error("text is not UTF-8")]
    Text,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, ScanError> {
        let mut value = 0u64;
        for n in 0..10 {
            let (&byte, rest) = self.0.split_first().ok_or(ScanError::CutShort)?;
            self.0 = rest;
            if n == 9 && byte > 1 {
                return Err(ScanError::Varint);
            }
            value |= u64::from(byte & 0x7f) << (7 * n);
            if byte & 0x80 == 0 {
                // A last byte of zero adds nothing: a longer encoding of the same number.
                return if byte == 0 && n > 0 { Err(ScanError::Varint) } else { Ok(value) };
            }
        }
        Err(ScanError::Varint)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], ScanError> {
        let length = usize::try_from(length).map_err(|_| ScanError::Length)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(ScanError::CutShort)?;
        self.0 = rest;
        Ok(taken)
    }
}

/// Checks `bytes` against `shape`, without allocating.
///
/// # Errors
/// The first fault met.
pub fn scan(bytes: &[u8], shape: &Shape) -> Result<(), ScanError> {
    let mut reader = Reader(bytes);
    let (mut last, mut times) = (0u32, 0usize);
    while !reader.0.is_empty() {
        let tag = reader.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| ScanError::Order)?;
        let wire_type = tag & 7;
        if number == 0 || number > 0x1fff_ffff || number < last {
            return Err(ScanError::Order);
        }
        times = if number == last { times + 1 } else { 1 };
        last = number;
        match shape.fields.iter().find(|f| f.number == number) {
            Some(field) if times > field.at_most => return Err(ScanError::Order),
            Some(field) => known(&mut reader, wire_type, field.kind)?,
            None if shape.unknown_allowed => unknown(&mut reader, wire_type)?,
            None => return Err(ScanError::Unknown),
        }
    }
    Ok(())
}

fn known(reader: &mut Reader<'_>, wire_type: u64, kind: Kind) -> Result<(), ScanError> {
    let largest = match kind {
        Kind::U32 => u64::from(u32::MAX),
        Kind::U64 => u64::MAX,
        Kind::Bool => 1,
        Kind::Bytes { .. } | Kind::Text { .. } | Kind::Message { .. } => {
            if wire_type != 2 {
                return Err(ScanError::WireType);
            }
            let length = reader.varint()?;
            let content = reader.take(length)?;
            return match kind {
                Kind::Bytes { min, max } if content.len() < min || content.len() > max => Err(ScanError::Length),
                Kind::Text { max } | Kind::Message { max, .. } if content.len() > max => Err(ScanError::Length),
                Kind::Text { .. } => std::str::from_utf8(content).map(|_| ()).map_err(|_| ScanError::Text),
                Kind::Message { shape, .. } => scan(content, shape),
                _ => Ok(()),
            };
        }
    };
    if wire_type != 0 {
        return Err(ScanError::WireType);
    }
    if reader.varint()? > largest { Err(ScanError::Varint) } else { Ok(()) }
}

/// Steps over a field that a newer version added.
fn unknown(reader: &mut Reader<'_>, wire_type: u64) -> Result<(), ScanError> {
    match wire_type {
        0 => reader.varint().map(|_| ()),
        1 => reader.take(8).map(|_| ()),
        2 => {
            let length = reader.varint()?;
            reader.take(length).map(|_| ())
        }
        5 => reader.take(4).map(|_| ()),
        _ => Err(ScanError::WireType),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    static INNER: Shape =
        Shape { fields: &[Field { number: 1, kind: Kind::Bool, at_most: 1 }], unknown_allowed: false };
    static OUTER: Shape = Shape {
        fields: &[
            Field { number: 1, kind: Kind::U32, at_most: 1 },
            Field { number: 2, kind: Kind::Bytes { min: 1, max: 4 }, at_most: 2 },
            Field { number: 3, kind: Kind::Message { max: 8, shape: &INNER }, at_most: 1 },
            Field { number: 4, kind: Kind::Text { max: 4 }, at_most: 1 },
        ],
        unknown_allowed: false,
    };
    static OPEN: Shape = Shape { fields: OUTER.fields, unknown_allowed: true };

    #[test]
    fn accepts_what_is_declared_and_nothing_else() {
        let cases: &[(&[u8], Result<(), ScanError>)] = &[
            (&[], Ok(())),
            (&[0x08, 0x05, 0x12, 1, 9, 0x12, 1, 9, 0x1a, 2, 8, 1], Ok(())),
            (&[0x12, 1, 9, 0x12, 1, 9, 0x12, 1, 9], Err(ScanError::Order)),
            (&[0x08, 5, 0x08, 5], Err(ScanError::Order)),
            (&[0x12, 1, 9, 0x08, 5], Err(ScanError::Order)),
            (&[0x08, 0x85, 0x00], Err(ScanError::Varint)),
            (&[0x88, 0x00, 0x05], Err(ScanError::Varint)),
            (&[0x08, 0xff, 0xff, 0xff, 0xff, 0x1f], Err(ScanError::Varint)),
            (&[0x12, 0], Err(ScanError::Length)),
            (&[0x12, 5, 1, 2, 3, 4, 5], Err(ScanError::Length)),
            (&[0x12, 3, 1], Err(ScanError::CutShort)),
            (&[0x0a, 1, 1], Err(ScanError::WireType)),
            (&[0x1a, 2, 8, 2], Err(ScanError::Varint)),
            (&[0x22, 1, 0xff], Err(ScanError::Text)),
            (&[0x28, 1], Err(ScanError::Unknown)),
            (&[0x00, 1], Err(ScanError::Order)),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(scan(bytes, &OUTER), *wanted, "{bytes:02x?}");
        }
        assert_eq!(scan(&[0x28, 1], &OPEN), Ok(()));
        assert_eq!(scan(&[0x2b], &OPEN), Err(ScanError::WireType));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = scan(&bytes, &OUTER);
            let _ = scan(&bytes, &OPEN);
        }
    }
}

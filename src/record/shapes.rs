//! The shapes of stored messages for the strict scanner (docs/protocol.md "Records"), with their limits in bytes.

use crate::wire::scanner::{Field, Kind, Shape};

const fn one(number: u32, kind: Kind) -> Field {
    Field { number, kind, at_most: 1 }
}

const fn many(number: u32, kind: Kind, at_most: usize) -> Field {
    Field { number, kind, at_most }
}

const fn exactly(length: usize) -> Kind {
    Kind::Bytes { min: length, max: length }
}

/// Entries of a bundle, and rotations of a header, at most.
pub const MAX_SLOTS: usize = 8;
/// A `SignedEntry`, at most.
pub const MAX_ENTRY_BYTES: usize = 1_280;
/// A signed certificate, at most.
pub const MAX_CERTIFICATE_BYTES: usize = 320;
/// The body of an envelope, at most.
pub const MAX_BODY_BYTES: usize = 640;

pub static BUNDLE: Shape = Shape {
    fields: &[
        // 65 for the one algorithm of today; a newer one is told apart before its length matters.
        one(1, Kind::Bytes { min: 1, max: 2_048 }),
        many(2, Kind::Bytes { min: 1, max: 320 }, MAX_SLOTS),
        one(3, Kind::Bytes { min: 1, max: 400 }),
        one(4, Kind::Bytes { min: 1, max: 200 }),
        many(5, Kind::Bytes { min: 1, max: MAX_ENTRY_BYTES }, MAX_SLOTS),
    ],
    unknown_allowed: false,
};

pub static SIGNED: Shape =
    Shape { fields: &[one(1, Kind::Bytes { min: 1, max: 400 }), one(2, exactly(64))], unknown_allowed: false };

pub static SIGNED_ENTRY: Shape = Shape {
    fields: &[
        one(1, Kind::Bytes { min: 1, max: 880 }),
        one(2, Kind::Bytes { min: 1, max: MAX_CERTIFICATE_BYTES }),
        one(3, exactly(64)),
    ],
    unknown_allowed: false,
};

pub static ROTATION: Shape = Shape {
    fields: &[one(1, exactly(22)), one(2, Kind::U32), one(3, exactly(32)), one(4, exactly(32)), one(5, exactly(32))],
    unknown_allowed: true,
};

pub static OWNER: Shape = Shape {
    fields: &[
        one(1, exactly(22)),
        one(2, Kind::U32),
        one(3, Kind::U32),
        many(4, Kind::U64, 16),
        one(5, Kind::U64),
        one(6, Kind::U64),
    ],
    unknown_allowed: true,
};

pub static REVOCATION: Shape =
    Shape { fields: &[one(1, exactly(22)), one(2, Kind::U64), one(3, exactly(32))], unknown_allowed: true };

/// Unlike other payloads: a caveat that is not understood must not be ignored.
static CAVEATS: Shape =
    Shape { fields: &[one(1, Kind::U32), one(2, Kind::U32), one(3, Kind::Bool)], unknown_allowed: false };

pub static CERTIFICATE: Shape = Shape {
    fields: &[
        one(1, exactly(22)),
        one(2, Kind::U32),
        one(3, Kind::U32),
        one(4, Kind::U64),
        one(5, exactly(32)),
        one(6, Kind::U32),
        one(7, Kind::U64),
        one(8, Kind::U64),
        one(9, Kind::Message { max: 32, shape: &CAVEATS }),
    ],
    unknown_allowed: true,
};

pub static ENVELOPE: Shape = Shape {
    fields: &[
        one(1, exactly(22)),
        one(2, Kind::U32),
        one(3, Kind::U32),
        one(4, Kind::U64),
        one(5, Kind::U64),
        one(6, Kind::U64),
        one(7, Kind::U32),
        one(8, Kind::Bytes { min: 0, max: MAX_BODY_BYTES }),
        one(9, Kind::U32),
    ],
    unknown_allowed: true,
};

pub static BODY: Shape = Shape {
    fields: &[
        one(1, Kind::U32),
        many(2, Kind::Bytes { min: 1, max: 128 }, 8),
        one(3, Kind::U64),
        one(4, Kind::Text { max: 128 }),
        one(5, Kind::Bytes { min: 0, max: 64 }),
        one(6, Kind::Bytes { min: 0, max: 64 }),
        many(7, Kind::Bytes { min: 0, max: 128 }, 2),
    ],
    unknown_allowed: true,
};

/// Of a nickname in a card, bytes.
pub const MAX_NICKNAME_BYTES: usize = 48;
/// Nodes that a card may name.
pub const MAX_HINTS: usize = 2;

pub static SIGNED_CARD: Shape = Shape {
    fields: &[
        one(1, Kind::Bytes { min: 1, max: 600 }),
        one(2, Kind::Bytes { min: 1, max: MAX_CERTIFICATE_BYTES }),
        one(3, exactly(64)),
    ],
    unknown_allowed: false,
};

pub static CARD: Shape = Shape {
    fields: &[
        one(1, Kind::Bytes { min: 1, max: 600 }),
        many(2, Kind::Bytes { min: 1, max: 320 }, MAX_SLOTS),
        one(3, exactly(32)),
        one(4, Kind::Text { max: 64 }),
        one(5, Kind::Text { max: MAX_NICKNAME_BYTES }),
        many(6, exactly(32), MAX_HINTS),
        one(7, Kind::Bytes { min: 0, max: 64 }),
        one(8, Kind::Bytes { min: 0, max: 64 }),
    ],
    unknown_allowed: true,
};

static CHARTER_SIGNATURE: Shape = Shape { fields: &[one(1, Kind::U32), one(2, exactly(64))], unknown_allowed: false };

pub static SIGNED_CHARTER: Shape = Shape {
    fields: &[
        one(1, Kind::Bytes { min: 1, max: 16 * 1024 }),
        many(2, Kind::Message { max: 80, shape: &CHARTER_SIGNATURE }, 8),
    ],
    unknown_allowed: false,
};

static BOOTSTRAP_NODE: Shape =
    Shape { fields: &[one(1, exactly(32)), many(2, Kind::Bytes { min: 1, max: 128 }, 8)], unknown_allowed: true };

pub static CHARTER: Shape = Shape {
    fields: &[
        one(1, Kind::U64),
        many(2, Kind::Message { max: 1_200, shape: &BOOTSTRAP_NODE }, 32),
        one(3, Kind::U32),
        one(4, Kind::U32),
        many(5, exactly(32), 8),
        one(6, Kind::U32),
        one(7, Kind::U64),
        one(8, exactly(32)),
    ],
    unknown_allowed: true,
};

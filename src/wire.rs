//! Bytes on the wire: generated protobuf types, the strict scanner, and signatures with domain, overlay and scope.
//! Skeleton: owned by the `record` work; signatures are the contract.

/// Generated from `proto/peerline.proto`.
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/peerline.v1.rs"));
}

/// The hash of an overlay's genesis. In every signature but rotation and revocation; its first 8 hex digits are in
/// every protocol name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OverlayId(pub [u8; 32]);

impl OverlayId {
    /// First 8 hex digits: `/peerline/<this>/...`.
    pub fn short(&self) -> String {
        self.0[..4].iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Which addresses a record of this overlay may carry (FORMATS "Overlay").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressScope {
    Global,
    Any,
}

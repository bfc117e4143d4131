//! Keys of TCP-AO, as the API wants them.

use serde::{Deserialize, Serialize};

use super::Secret;

/// A master key tuple (RFC 5925, section 3.1): what one of our segments may be authenticated with, and one of the
/// neighbour's. On the other side it is the same with the identifiers exchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpAoKey {
    /// The KeyID in segments we send with it, 0–255: the neighbour's RecvID. No other key of the peer has it.
    pub send_id: u8,
    /// The KeyID in segments that come with it, 0–255: the neighbour's SendID. No other key of the peer has it.
    pub recv_id: u8,
    /// How codes are made of it.
    #[serde(default)]
    pub algorithm: TcpAoAlgorithm,
    /// The master key: 1–80 octets, which the kernel allows.
    pub secret: Secret,
}

/// The two of RFC 5926, under its names: codes of 96 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TcpAoAlgorithm {
    /// HMAC with SHA-1.
    #[default]
    #[serde(rename = "hmac-sha-1-96")]
    HmacSha1,
    /// CMAC with AES-128.
    #[serde(rename = "aes-128-cmac-96")]
    Aes128Cmac,
}

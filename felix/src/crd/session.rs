//! What configurations and neighbours alike may say of a session.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A key of a Secret in the namespace of Manx.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Which of its keys; `password` unless set.
    #[serde(default = "default_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn default_key() -> String {
    "password".to_owned()
}

/// When a session is called, and when it is given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timers {
    /// Hold time offered (RFC 4271, section 4.2), in seconds: 0 (never expires) or 3–65535. Unless set, a BGPPeer has that of
    /// the BGPConfiguration, which has 90.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self == 0 || self >= 3").message("a hold time is 0 (never) or 3 to 65535 seconds"))]
    pub hold_time_seconds: Option<u16>,
    /// Seconds between two KEEPALIVEs: at most a third of the hold time; a third unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 21845))]
    pub keepalive_seconds: Option<u16>,
    /// Seconds a neighbour may take not one octet of what it is sent before its session ends (RFC 9687): more than the
    /// hold time. Unless set, a BGPPeer has that of the BGPConfiguration, which has eight minutes or twice the hold time
    /// agreed on, whichever is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub send_hold_time_seconds: Option<u16>,
    /// Longest pause before a neighbour that does not answer is called again (ConnectRetryTime), in seconds: 1–65535.
    /// Unless set, a BGPPeer has that of the BGPConfiguration, which has 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub connect_retry_seconds: Option<u16>,
}

/// A key of TCP-AO (RFC 5925). On the other side it is the same with the identifiers exchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TcpAoKey {
    /// The KeyID in what nodes send with it: the neighbour's RecvID. No other key of the neighbour has it.
    pub send_id: u8,
    /// The KeyID in what comes with it: the neighbour's SendID. No other key of the neighbour has it.
    pub recv_id: u8,
    /// How codes are made of it (RFC 5926).
    #[serde(default)]
    pub algorithm: TcpAoAlgorithm,
    /// Where it is kept, in a Secret of Manx's namespace.
    pub secret: SecretKey,
}

/// The two of RFC 5926.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TcpAoAlgorithm {
    /// HMAC with SHA-1.
    #[default]
    #[serde(rename = "hmac-sha-1-96")]
    HmacSha1,
    /// CMAC with AES-128.
    #[serde(rename = "aes-128-cmac-96")]
    Aes128Cmac,
}

/// BFD (RFC 5880): the way to the neighbour is watched, and the session ends as soon as it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bfd {
    /// The shortest interval we can receive at, in milliseconds: 10–60000.
    #[serde(default = "default_interval")]
    #[schemars(range(min = 10, max = 60000))]
    pub min_rx_milliseconds: u32,
    /// The shortest interval we would send at, in milliseconds: 10–60000.
    #[serde(default = "default_interval")]
    #[schemars(range(min = 10, max = 60000))]
    pub min_tx_milliseconds: u32,
    /// Packets in a row that may be lost before the way is: 2–50.
    #[serde(default = "default_multiplier")]
    #[schemars(range(min = 2, max = 50))]
    pub multiplier: u8,
}

fn default_interval() -> u32 {
    manx_bgp::api::Bfd::default().min_rx_ms
}

fn default_multiplier() -> u8 {
    manx_bgp::api::Bfd::default().multiplier
}

/// What the neighbour is to do while our speaker restarts (RFC 4724, RFC 8538), and what is done should it take long
/// (RFC 9494).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GracefulRestart {
    /// Seconds the neighbour is to keep our routes in use while it waits for us: 0–4095.
    #[serde(default = "default_restart_time")]
    #[schemars(range(max = 4095))]
    pub restart_time_seconds: u16,
    /// Seconds after that in which it is to keep them as the last resort (RFC 9494): 0–16777215; 0: not at all.
    #[serde(default)]
    #[schemars(range(max = 16777215))]
    pub long_lived_stale_time_seconds: u32,
    /// Longest time we keep the neighbour's routes so, in seconds: 0–16777215; as long as it asks unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 16777215))]
    pub long_lived_limit_seconds: Option<u32>,
}

/// A container may take as long to be started again, its image pulled.
fn default_restart_time() -> u16 {
    120
}

impl Default for GracefulRestart {
    fn default() -> Self {
        Self {
            restart_time_seconds: default_restart_time(),
            long_lived_stale_time_seconds: 0,
            long_lived_limit_seconds: None,
        }
    }
}

/// How many prefixes a neighbour may give, and what happens to one that gives more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.restartAfterSeconds) || self.action == 'Cease'")
    .message("restartAfterSeconds goes with the action Cease"))]
pub struct MaxPrefixes {
    /// Of IPv4: at least 1.
    #[serde(default = "default_limit")]
    #[schemars(range(min = 1))]
    pub ipv4: u32,
    /// Of IPv6: at least 1.
    #[serde(default = "default_limit")]
    #[schemars(range(min = 1))]
    pub ipv6: u32,
    /// Percent of the limit at which a warning is due: 1–100.
    #[serde(default = "default_warn")]
    #[schemars(range(min = 1, max = 100))]
    pub warn_percent: u8,
    /// `Cease`: its session ends (RFC 4486). `Warn`: all is taken.
    #[serde(default)]
    pub action: MaxPrefixesAction,
    /// With `Cease`: seconds until it is spoken with again, 1–86400. Unless set it is not, until `manxctl bgp reset` or
    /// other limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub restart_after_seconds: Option<u32>,
}

/// What happens to a neighbour that gives too much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MaxPrefixesAction {
    /// Its session ends, and what it said goes.
    #[default]
    Cease,
    /// It is warned of, and all is taken.
    Warn,
}

fn default_limit() -> u32 {
    manx_bgp::api::MaxPrefixes::default().ipv4
}

fn default_warn() -> u8 {
    manx_bgp::api::MaxPrefixes::default().warn_percent
}

//! The CNI specification's own documents: configuration, result, error.
//!
//! <https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md>

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::Config;
use crate::protocol::Attach;
use crate::veth::{HOST_MAC, Veth, gateway_of};

/// A version of the specification, oldest first. They differ in what a result holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.1: `ips[].version`.
    V0_3_1,
    /// 0.4.0: as 0.3.1.
    V0_4_0,
    /// 1.0.0: no `ips[].version`.
    V1_0_0,
    /// 1.1.0: `interfaces[].mtu`.
    V1_1_0,
}

impl Version {
    /// All that are spoken, oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As the specification writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version `text` names, if it is spoken.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }
}

/// Error codes of the specification, section "Error".
pub mod code {
    /// The configuration's `cniVersion` is not spoken.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration asks for what this plugin does not do.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// There is no such attachment and nothing of it: the runtime need not DEL it.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// The configuration is not JSON of the right shape.
    pub const DECODE: u32 = 6;
    /// The configuration is well-formed and wrong.
    pub const INVALID_CONFIG: u32 = 7;
    /// Nothing was done; the runtime should try again.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: no pod can be attached now.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: no pod can be attached now, and those that are may not be reached.
    pub const LIMITED: u32 = 51;
    /// Ours: the pod's interface could not be made.
    pub const INTERFACE: u32 = 100;
    /// Ours: the agent answered out of turn.
    pub const PROTOCOL: u32 = 101;
    /// Ours: an attachment is not as its ADD left it.
    pub const DIFFERENT: u32 = 102;
}

/// What went wrong, as the runtime is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{msg}: {details}")]
pub struct CniError {
    /// See [`code`].
    pub code: u32,
    /// In a few words.
    pub msg: String,
    /// What was wrong and what would be right.
    pub details: String,
}

impl CniError {
    /// An error of `code`.
    pub fn new(code: u32, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }

    /// The document for standard output.
    pub fn document(&self, version: Version) -> Value {
        serde_json::json!({
            "cniVersion": version.as_str(), "code": self.code, "msg": self.msg, "details": self.details,
        })
    }
}

/// Reads a JSON object. Without the detour an array would do: serde takes it for the fields in their order.
pub(crate) fn object<T: DeserializeOwned>(input: &[u8], msg: &str) -> Result<T, CniError> {
    let object = serde_json::from_slice::<serde_json::Map<String, Value>>(input);
    let read = object.and_then(|object| serde_json::from_value(Value::Object(object)));
    read.map_err(|error| CniError::new(code::DECODE, msg, error.to_string()))
}

/// The form of container ids and network names: `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`.
pub fn is_identifier(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// The answer to VERSION, whatever version `input` speaks.
///
/// # Errors
/// Code 6 when `input` is not JSON.
pub fn version_document(input: &[u8]) -> Result<Value, CniError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Asked {
        cni_version: Option<String>,
    }
    let asked: Asked = object(input, "cannot read the request")?;
    Ok(serde_json::json!({
        "cniVersion": asked.cni_version.as_deref().unwrap_or(Version::NEWEST.as_str()),
        "supportedVersions": Version::ALL.map(Version::as_str),
    }))
}

/// The result of an ADD.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AddResult {
    cni_version: &'static str,
    interfaces: [Interface; 2],
    ips: Vec<Ip>,
    routes: Vec<ResultRoute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<Value>,
}

#[derive(Debug, Serialize)]
struct Interface {
    name: String,
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "String::is_empty")]
    sandbox: String,
}

#[derive(Debug, Serialize)]
struct Ip {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    address: IpNetwork,
    gateway: IpAddr,
    interface: usize,
}

#[derive(Debug, Serialize)]
struct ResultRoute {
    dst: IpNetwork,
    gw: IpAddr,
}

/// The result of an ADD in the version `config` asks for.
pub fn add_document(config: &Config, attach: &Attach, veth: &Veth, ifname: &str, netns: &str) -> Value {
    /// Place of the pod's end in `interfaces`.
    const POD: usize = 1;
    let mtu = (config.version >= Version::V1_1_0).then_some(attach.mtu);
    let with_family = config.version < Version::V1_0_0;
    let interface = |name: &str, mac, sandbox: &str| Interface {
        name: name.to_owned(),
        mac: format_mac(mac),
        mtu,
        sandbox: sandbox.to_owned(),
    };
    let ip = |&address: &IpAddr| Ip {
        version: with_family.then_some(if address.is_ipv4() { "4" } else { "6" }),
        address: address.into(),
        gateway: gateway_of(address),
        interface: POD,
    };
    let result = AddResult {
        cni_version: config.version.as_str(),
        interfaces: [interface(&attach.host_ifname, HOST_MAC, ""), interface(ifname, veth.pod_mac, netns)],
        ips: attach.addresses.iter().map(ip).collect(),
        routes: attach.routes.iter().map(|&dst| ResultRoute { dst, gw: gateway_of(dst.ip()) }).collect(),
        dns: config.dns.clone(),
    };
    serde_json::to_value(result).unwrap_or_default()
}

/// A MAC an interface can have: six octets, unicast, not zero.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let octets = text.split(':').map(|octet| {
        let hex = octet.len() == 2 && octet.bytes().all(|digit| digit.is_ascii_hexdigit());
        hex.then(|| u8::from_str_radix(octet, 16).ok()).flatten()
    });
    let mac: [u8; 6] = octets.collect::<Option<Vec<u8>>>()?.try_into().ok()?;
    (mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

/// As the kernel writes it.
pub fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(version: &str) -> Config {
        let input = format!(
            r#"{{"cniVersion":"{version}","name":"manx","type":"manx","dns":{{"nameservers":["10.96.0.10"]}},
                "runtimeConfig":{{"io.kubernetes.cri.pod-annotations":{{}}}},"capabilities":{{}}}}"#
        );
        Config::parse(input.as_bytes()).unwrap()
    }

    fn result(version: &str) -> String {
        let attach = Attach {
            host_ifname: "manxabcdefghijk".into(),
            addresses: vec!["10.244.1.5".parse().unwrap(), "fd00:10:244::5".parse().unwrap()],
            mtu: 1500,
            routes: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            replaces: false,
        };
        let veth = Veth { host_ifindex: 7, pod_mac: [2, 0, 0, 0, 0, 0xab] };
        let document = add_document(&config(version), &attach, &veth, "eth0", "/var/run/netns/p");
        serde_json::to_string_pretty(&document).unwrap()
    }

    #[test]
    fn a_result_of_1_1_0() {
        insta::assert_snapshot!(result("1.1.0"));
    }

    #[test]
    fn a_result_of_1_0_0_has_no_mtu() {
        insta::assert_snapshot!(result("1.0.0"));
    }

    #[test]
    fn a_result_of_0_4_0_says_each_addresses_family() {
        insta::assert_snapshot!(result("0.4.0"));
        assert_eq!(result("0.4.0").replace("0.4.0", "0.3.1"), result("0.3.1"));
    }

    #[test]
    fn a_mac_is_one_an_interface_can_have() {
        assert_eq!(parse_mac("02:00:00:00:00:aB"), Some([2, 0, 0, 0, 0, 0xab]));
        for text in ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "+2:00:00:00:00:01", "01:00:5e:00:00:01"] {
            assert_eq!(parse_mac(text), None, "{text}");
        }
        assert_eq!(parse_mac("00:00:00:00:00:00"), None);
    }

    #[test]
    fn version_answers_in_the_version_it_is_asked_in() {
        let document = version_document(br#"{"cniVersion":"0.2.0"}"#).unwrap();
        assert_eq!(
            document,
            serde_json::json!({"cniVersion":"0.2.0","supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]})
        );
        assert_eq!(version_document(b"{}").unwrap()["cniVersion"], "1.1.0");
        for input in ["", "[]"] {
            assert_eq!(version_document(input.as_bytes()).unwrap_err().code, code::DECODE, "{input}");
        }
    }
}

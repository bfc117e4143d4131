//! The plugin's network configuration, as the runtime hands it over on standard input.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::protocol::{AttachmentKey, DEFAULT_SOCKET};
use crate::spec::{CniError, Version, code, is_identifier, object, parse_mac};

/// Smallest MTU, in octets, that IPv6 works over (RFC 8200, section 5), and the largest a veth takes.
const MTU: std::ops::RangeInclusive<u32> = 1280..=65535;

/// The configuration, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `cniVersion`: what to answer in.
    pub version: Version,
    /// `name` of the network.
    pub name: String,
    /// `agentSocket`: where the agent listens; [`DEFAULT_SOCKET`] unless set.
    pub agent_socket: String,
    /// `mtu` of both ends in octets, 1280 to 65535; the agent's choice unless set.
    pub mtu: Option<u32>,
    /// `dns`, handed on in the result as it is.
    pub dns: Option<Value>,
    /// `runtimeConfig.ips`, or `args.cni.ips`: addresses asked for, at most one a family.
    pub ips: Vec<IpAddr>,
    /// `runtimeConfig.mac`: of the pod's end.
    pub mac: Option<[u8; 6]>,
    /// `prevResult`: what the plugins before this one, or the whole chain, gave.
    pub previous: Option<Value>,
    /// `cni.dev/valid-attachments`: what a GC must leave alone.
    pub valid: Option<Vec<AttachmentKey>>,
    /// The first of `runtimeConfig` asked for that this plugin does not do, as `key: value`.
    pub unsupported: Option<String>,
}

/// As it stands on standard input; keys this plugin does not know are the runtime's own or other plugins'.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawConfig {
    // Left out by very old runtimes; libcni reads that as 0.1.0.
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    agent_socket: Option<String>,
    #[serde(default)]
    mtu: Option<u32>,
    #[serde(default)]
    dns: Option<Value>,
    #[serde(default)]
    prev_result: Option<Value>,
    #[serde(default)]
    runtime_config: Option<Map<String, Value>>,
    #[serde(default)]
    args: Option<Value>,
    #[serde(default, rename = "cni.dev/valid-attachments", deserialize_with = "even_null")]
    valid: Option<Vec<RawAttachment>>,
}

#[derive(Deserialize)]
struct RawAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

/// An empty list is `null` where a Go program wrote it; left out is something else.
fn even_null<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Vec<RawAttachment>>, D::Error> {
    Option::deserialize(value).map(|list| Some(list.unwrap_or_default()))
}

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Codes 6 (not JSON of this shape), 1 (`cniVersion`), 7 (a value, named).
    pub fn parse(input: &[u8]) -> Result<Self, CniError> {
        let raw: RawConfig = object(input, "cannot read the network configuration")?;
        let asked = raw.cni_version.as_deref().unwrap_or("0.1.0");
        let version = Version::parse(asked).ok_or_else(|| {
            let spoken = Version::ALL.map(Version::as_str).join(", ");
            let details = format!("cniVersion is {asked:?}; this plugin speaks {spoken}");
            CniError::new(code::INCOMPATIBLE_VERSION, "incompatible CNI version", details)
        })?;
        if !is_identifier(&raw.name) {
            let rule = "it must begin with a letter or digit and hold only those, '_', '.' and '-'";
            return Err(invalid(format!("name is {:?}; {rule}", raw.name)));
        }
        let agent_socket = raw.agent_socket.unwrap_or_else(|| DEFAULT_SOCKET.to_owned());
        if !agent_socket.starts_with('/') {
            return Err(invalid(format!("agentSocket is {agent_socket:?}; it must be an absolute path")));
        }
        if let Some(mtu) = raw.mtu.filter(|mtu| !MTU.contains(mtu)) {
            return Err(invalid(format!("mtu is {mtu}; it must be {} to {}", MTU.start(), MTU.end())));
        }
        let runtime = raw.runtime_config.unwrap_or_default();
        let fixed = raw.args.as_ref().and_then(|args| args.pointer("/cni/ips"));
        let ips = match (runtime.get("ips"), fixed) {
            (Some(ips), _) => ips_of("runtimeConfig.ips", ips)?,
            (None, Some(ips)) => ips_of("args.cni.ips", ips)?,
            (None, None) => Vec::new(),
        };
        // Declared by no configuration of ours: a runtime that asks all the same must not be answered in vain.
        let unsupported = runtime.iter().find(|(key, _)| {
            matches!(key.as_str(), "ipRanges" | "bandwidth" | "infinibandGUID" | "deviceID")
        });
        let valid = raw.valid.map(|list| {
            let key =
                |raw: RawAttachment| AttachmentKey { container_id: raw.container_id, ifname: raw.ifname };
            list.into_iter().map(key).collect()
        });
        Ok(Self {
            version,
            name: raw.name,
            agent_socket,
            mtu: raw.mtu,
            dns: raw.dns,
            ips,
            mac: runtime.get("mac").map(mac_of).transpose()?,
            previous: raw.prev_result,
            valid,
            unsupported: unsupported.map(|(key, value)| format!("{key}: {value}")),
        })
    }
}

fn ips_of(key: &str, value: &Value) -> Result<Vec<IpAddr>, CniError> {
    let wrong = || invalid(format!("{key} is {value}; it must be a list of at most one address a family"));
    // With a prefix length, as other plugins want it, or without: a pod's address has none but its own.
    let texts: Vec<IpNetwork> = serde_json::from_value(value.clone()).map_err(|_| wrong())?;
    let ips: Vec<IpAddr> = texts.iter().map(IpNetwork::ip).collect();
    let of_one_family = |v4| ips.iter().filter(|ip| ip.is_ipv4() == v4).count();
    if of_one_family(true) > 1 || of_one_family(false) > 1 { Err(wrong()) } else { Ok(ips) }
}

fn mac_of(value: &Value) -> Result<[u8; 6], CniError> {
    value.as_str().and_then(parse_mac).ok_or_else(|| {
        let rule = "it must be six octets as in \"02:00:00:00:00:01\", unicast";
        invalid(format!("runtimeConfig.mac is {value}; {rule}"))
    })
}

fn invalid(details: String) -> CniError {
    CniError::new(code::INVALID_CONFIG, "invalid network configuration", details)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rest: &str) -> Result<Config, CniError> {
        Config::parse(format!(r#"{{"cniVersion":"1.1.0","name":"manx","type":"manx"{rest}}}"#).as_bytes())
    }

    #[test]
    fn a_version_not_spoken_is_code_1_and_told_those_that_are() {
        for input in [r#"{"cniVersion":"2.0.0","name":"n"}"#, r#"{"name":"n"}"#] {
            let error = Config::parse(input.as_bytes()).unwrap_err();
            assert_eq!(error.code, code::INCOMPATIBLE_VERSION);
            assert!(error.details.ends_with("this plugin speaks 0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{error}");
        }
    }

    #[test]
    fn a_wrong_configuration_names_its_key_and_value() {
        for input in ["", "{", "[]", r#"["1.0.0", "x"]"#] {
            assert_eq!(Config::parse(input.as_bytes()).unwrap_err().code, code::DECODE, "{input}");
        }
        assert_eq!(parse(r#","runtimeConfig":7"#).unwrap_err().code, code::DECODE);
        let error = Config::parse(br#"{"cniVersion":"1.0.0","name":"-x"}"#).unwrap_err();
        assert_eq!((error.code, error.details.starts_with("name is \"-x\"")), (code::INVALID_CONFIG, true));
        for (rest, words) in [
            (r#","agentSocket":"run/a""#, "agentSocket is \"run/a\""),
            (r#","mtu":1279"#, "mtu is 1279; it must be 1280 to 65535"),
            (r#","runtimeConfig":{"mac":"01:00:00:00:00:00"}"#, "runtimeConfig.mac is \"01:"),
            (r#","runtimeConfig":{"ips":"10.0.0.1"}"#, "runtimeConfig.ips is \"10.0.0.1\""),
            (r#","runtimeConfig":{"ips":["10.0.0.1","10.0.0.2"]}"#, "runtimeConfig.ips is [\"10.0.0.1\","),
            (r#","args":{"cni":{"ips":["10.0.0"]}}"#, "args.cni.ips is [\"10.0.0\"]"),
        ] {
            let error = parse(rest).unwrap_err();
            assert_eq!(error.code, code::INVALID_CONFIG);
            assert!(error.details.starts_with(words), "{error}");
        }
    }

    #[test]
    fn addresses_and_mac_come_from_the_runtimes_keys() {
        let both = r#","runtimeConfig":{"ips":["10.0.0.1/24","fd00::1"],"mac":"02:00:00:00:00:01",
            "portMappings":[{"hostPort":80}],"io.kubernetes.cri.pod-annotations":{}},"args":{"cni":{"ips":["10.9.9.9"]}}"#;
        let config = parse(both).unwrap();
        assert_eq!(config.ips, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
        assert_eq!((config.mac, config.unsupported), (Some([2, 0, 0, 0, 0, 1]), None));
        let config = parse(r#","args":{"cni":{"ips":["10.9.9.9/24"]}}"#).unwrap();
        assert_eq!(config.ips, ["10.9.9.9".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn what_the_runtime_asks_in_vain_is_found() {
        let config = parse(r#","runtimeConfig":{"bandwidth":{"ingressRate":1}}"#).unwrap();
        assert_eq!(config.unsupported.as_deref(), Some(r#"bandwidth: {"ingressRate":1}"#));
    }

    #[test]
    fn an_empty_list_of_valid_attachments_is_not_none() {
        let key = AttachmentKey { container_id: "c1".into(), ifname: "eth0".into() };
        let list = r#","cni.dev/valid-attachments":[{"containerID":"c1","ifname":"eth0"}]"#;
        assert_eq!(parse(list).unwrap().valid, Some(vec![key]));
        assert_eq!(parse(r#","cni.dev/valid-attachments":[]"#).unwrap().valid, Some(Vec::new()));
        assert_eq!(parse(r#","cni.dev/valid-attachments":null"#).unwrap().valid, Some(Vec::new()));
        assert_eq!(parse("").unwrap().valid, None);
    }
}

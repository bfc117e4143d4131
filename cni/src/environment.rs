//! The environment a runtime calls a plugin with.

use std::net::IpAddr;

use crate::protocol::{AttachmentKey, PodRef};
use crate::spec::{CniError, code, is_identifier, parse_mac};

/// Longest interface name, in octets (IFNAMSIZ less the final zero).
const IFNAME_MAX: usize = 15;

/// What the runtime wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Attach a container.
    Add {
        /// Whose interface.
        key: AttachmentKey,
        /// CNI_NETNS.
        netns: String,
        /// CNI_ARGS.
        args: Args,
    },
    /// Detach a container.
    Del {
        /// Whose interface.
        key: AttachmentKey,
    },
    /// Compare an attachment with what its ADD gave.
    Check {
        /// Whose interface.
        key: AttachmentKey,
        /// CNI_NETNS.
        netns: String,
    },
    /// Remove what the runtime does not know.
    Gc,
    /// Say whether a container can be attached now.
    Status,
    /// Say which versions are spoken.
    Version,
}

/// What CNI_ARGS says to this plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// Whose pod.
    pub pod: PodRef,
    /// `IP`: the address asked for.
    pub ip: Option<IpAddr>,
    /// `MAC`: of the pod's end.
    pub mac: Option<[u8; 6]>,
}

impl Command {
    /// Reads the command from environment variables, which `variable` looks up.
    ///
    /// # Errors
    /// Code 4, naming every variable that is missing, or the one that is wrong.
    pub fn parse(variable: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let get = |name| variable(name).filter(|value| !value.is_empty());
        let Some(command) = get("CNI_COMMAND") else {
            return Err(missing(&["CNI_COMMAND"]));
        };
        let required: &[&'static str] = match command.as_str() {
            "VERSION" => return Ok(Self::Version),
            "STATUS" => return Ok(Self::Status),
            "GC" => &["CNI_PATH"],
            "ADD" | "CHECK" => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            // The namespace may be gone: containerd's second DEL has an empty CNI_NETNS.
            "DEL" => &["CNI_CONTAINERID", "CNI_IFNAME"],
            _ => {
                let rule = "it must be ADD, DEL, CHECK, GC, STATUS or VERSION";
                return Err(wrong("CNI_COMMAND", &command, rule));
            }
        };
        let absent: Vec<_> = required.iter().copied().filter(|name| get(name).is_none()).collect();
        if !absent.is_empty() {
            return Err(missing(&absent));
        }
        if command == "GC" {
            return Ok(Self::Gc);
        }
        let value = |name| get(name).unwrap_or_default();
        let key = AttachmentKey { container_id: value("CNI_CONTAINERID"), ifname: value("CNI_IFNAME") };
        check_key(&key)?;
        Ok(match command.as_str() {
            "ADD" => Self::Add { key, netns: value("CNI_NETNS"), args: args_of(&value("CNI_ARGS"))? },
            "CHECK" => Self::Check { key, netns: value("CNI_NETNS") },
            _ => Self::Del { key },
        })
    }
}

fn check_key(key: &AttachmentKey) -> Result<(), CniError> {
    if !is_identifier(&key.container_id) {
        let rule = "it must begin with a letter or digit and hold only those, '_', '.' and '-'";
        return Err(wrong("CNI_CONTAINERID", &key.container_id, rule));
    }
    // dev_valid_name() of the kernel; a control character would pass it and help nobody.
    let ifname = key.ifname.as_str();
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    // The last two are settings of all interfaces in /proc/sys.
    let taken = matches!(ifname, "." | ".." | "all" | "default");
    if ifname.len() > IFNAME_MAX || taken || ifname.contains(bad) {
        let rule = "it must be an interface name: at most 15 octets, no '/', ':' or space, not ., .., all or default";
        return Err(wrong("CNI_IFNAME", ifname, rule));
    }
    Ok(())
}

/// The `K=V;K=V…` of CNI_ARGS. Keys of other purposes are passed over, as every runtime's `IgnoreUnknown` asks.
fn args_of(text: &str) -> Result<Args, CniError> {
    let mut args = Args::default();
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(wrong("CNI_ARGS", text, "it must be KEY=VALUE pairs divided by ';'"));
        };
        match key {
            "K8S_POD_NAMESPACE" => args.pod.namespace = value.to_owned(),
            "K8S_POD_NAME" => args.pod.name = value.to_owned(),
            "K8S_POD_UID" => args.pod.uid = value.to_owned(),
            "IP" => {
                let ip = value.parse().map_err(|_| wrong("CNI_ARGS", text, "IP must be an address"))?;
                args.ip = Some(ip);
            }
            "MAC" => {
                let rule = "MAC must be six octets as in 02:00:00:00:00:01, unicast";
                args.mac = Some(parse_mac(value).ok_or_else(|| wrong("CNI_ARGS", text, rule))?);
            }
            _ => {}
        }
    }
    Ok(args)
}

fn missing(names: &[&str]) -> CniError {
    let verb = if names.len() == 1 { "is" } else { "are" };
    CniError::new(
        code::INVALID_ENVIRONMENT,
        "missing environment variable",
        format!("{} {verb} not set or empty; manx is called by a container runtime", names.join(", ")),
    )
}

/// A variable with a value that will not do.
pub fn wrong(name: &str, value: &str, rule: &str) -> CniError {
    CniError::new(
        code::INVALID_ENVIRONMENT,
        "invalid environment variable",
        format!("{name} is {value:?}; {rule}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(variables: &[(&str, &str)]) -> Result<Command, CniError> {
        Command::parse(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn add(name: &str, value: &str) -> Result<Command, CniError> {
        let base = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/run/netns/x"),
            ("CNI_IFNAME", "eth0"),
        ];
        let rest = base.into_iter().filter(|(key, _)| *key != name);
        parse(&[(name, value)].into_iter().chain(rest).collect::<Vec<_>>())
    }

    #[test]
    fn every_missing_variable_is_named() {
        let error = parse(&[]).unwrap_err();
        assert_eq!(error.code, 4);
        assert!(error.details.starts_with("CNI_COMMAND is not set"), "{error}");
        let error = parse(&[("CNI_COMMAND", "ADD"), ("CNI_NETNS", "/x"), ("CNI_IFNAME", "")]).unwrap_err();
        assert!(error.details.starts_with("CNI_CONTAINERID, CNI_IFNAME are not set"), "{error}");
    }

    #[test]
    fn a_del_does_without_a_namespace() {
        let base =
            [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0"), ("CNI_NETNS", "")];
        let key = AttachmentKey { container_id: "c1".into(), ifname: "eth0".into() };
        assert_eq!(parse(&base), Ok(Command::Del { key }));
    }

    #[test]
    fn values_the_specification_or_the_kernel_forbids_are_code_4() {
        for (name, value) in [
            ("CNI_COMMAND", "add"),
            ("CNI_COMMAND", "UPDATE"),
            ("CNI_CONTAINERID", "../../etc"),
            ("CNI_CONTAINERID", "-c"),
            ("CNI_IFNAME", "eth0/1"),
            ("CNI_IFNAME", "eth:0"),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "all"),
            ("CNI_IFNAME", "sixteen-octets-x"),
            ("CNI_ARGS", "K8S_POD_NAME"),
            ("CNI_ARGS", "IgnoreUnknown=1;IP=10.0.0"),
            ("CNI_ARGS", "MAC=ff:ff:ff:ff:ff:ff"),
        ] {
            let error = add(name, value).unwrap_err();
            assert_eq!(error.code, 4, "{name}={value}");
            assert!(error.details.starts_with(&format!("{name} is {value:?}; ")), "{error}");
        }
        assert!(add("CNI_IFNAME", "fifteen-octets-").is_ok());
    }

    #[test]
    fn the_pod_is_read_from_containerds_arguments() {
        let args = "K8S_POD_NAMESPACE=ns1;K8S_POD_NAME=p1;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=u-1;IgnoreUnknown=1";
        let Ok(Command::Add { args: Args { pod, ip, mac }, .. }) = add("CNI_ARGS", args) else {
            panic!("not an ADD")
        };
        assert_eq!(pod, PodRef { namespace: "ns1".into(), name: "p1".into(), uid: "u-1".into() });
        assert_eq!((ip, mac), (None, None));
    }

    #[test]
    fn an_address_and_a_mac_are_read_from_the_arguments() {
        let args = "IP=10.0.0.9;MAC=02:00:00:00:00:01";
        let Ok(Command::Add { args, .. }) = add("CNI_ARGS", args) else { panic!("not an ADD") };
        assert_eq!(args.ip, Some([10, 0, 0, 9].into()));
        assert_eq!(args.mac, Some([2, 0, 0, 0, 0, 1]));
    }

    #[test]
    fn every_verb_asks_for_its_own_variables() {
        assert_eq!(parse(&[("CNI_COMMAND", "STATUS")]), Ok(Command::Status));
        assert_eq!(parse(&[("CNI_COMMAND", "VERSION")]), Ok(Command::Version));
        assert_eq!(parse(&[("CNI_COMMAND", "GC"), ("CNI_PATH", "/opt/cni/bin")]), Ok(Command::Gc));
        let error = parse(&[("CNI_COMMAND", "GC")]).unwrap_err();
        assert!(error.details.starts_with("CNI_PATH is not set"), "{error}");
        let error = parse(&[("CNI_COMMAND", "CHECK"), ("CNI_CONTAINERID", "c1")]).unwrap_err();
        assert!(error.details.starts_with("CNI_NETNS, CNI_IFNAME are not set"), "{error}");
    }
}

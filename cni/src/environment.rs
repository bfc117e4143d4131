//! The environment a runtime calls a plugin with.

use crate::protocol::{AttachmentKey, PodRef};
use crate::spec::{CniError, code, is_identifier};

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
        /// From CNI_ARGS.
        pod: PodRef,
    },
    /// Detach a container.
    Del {
        /// Whose interface.
        key: AttachmentKey,
    },
    /// Say which versions are spoken.
    Version,
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
            "ADD" => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            // The namespace may be gone: containerd's second DEL has an empty CNI_NETNS.
            "DEL" => &["CNI_CONTAINERID", "CNI_IFNAME"],
            "CHECK" | "GC" | "STATUS" => {
                return Err(wrong("CNI_COMMAND", &command, "this version of manx does not implement it yet"));
            }
            _ => return Err(wrong("CNI_COMMAND", &command, "it must be ADD, DEL or VERSION")),
        };
        let absent: Vec<_> = required.iter().copied().filter(|name| get(name).is_none()).collect();
        if !absent.is_empty() {
            return Err(missing(&absent));
        }
        let value = |name| get(name).unwrap_or_default();
        let key = AttachmentKey { container_id: value("CNI_CONTAINERID"), ifname: value("CNI_IFNAME") };
        check_key(&key)?;
        Ok(match command.as_str() {
            "ADD" => Self::Add { key, netns: value("CNI_NETNS"), pod: pod_of(&value("CNI_ARGS"))? },
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
    if ifname.len() > IFNAME_MAX || matches!(ifname, "." | "..") || ifname.contains(bad) {
        let rule = "it must be an interface name: at most 15 octets, no '/', ':' or space, not . or ..";
        return Err(wrong("CNI_IFNAME", ifname, rule));
    }
    Ok(())
}

/// The pod of `K=V;K=V…`. Keys of other purposes are passed over, as every runtime's `IgnoreUnknown` asks; a fixed
/// address or MAC is refused, for the pod would silently get another.
fn pod_of(args: &str) -> Result<PodRef, CniError> {
    let mut pod = PodRef::default();
    for pair in args.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(wrong("CNI_ARGS", args, "it must be KEY=VALUE pairs divided by ';'"));
        };
        match key {
            "K8S_POD_NAMESPACE" => pod.namespace = value.to_owned(),
            "K8S_POD_NAME" => pod.name = value.to_owned(),
            "K8S_POD_UID" => pod.uid = value.to_owned(),
            "IP" | "MAC" => {
                return Err(wrong("CNI_ARGS", args, "this version of manx gives no fixed IP or MAC"));
            }
            _ => {}
        }
    }
    Ok(pod)
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
            ("CNI_COMMAND", "CHECK"),
            ("CNI_CONTAINERID", "../../etc"),
            ("CNI_CONTAINERID", "-c"),
            ("CNI_IFNAME", "eth0/1"),
            ("CNI_IFNAME", "eth:0"),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "sixteen-octets-x"),
            ("CNI_ARGS", "K8S_POD_NAME"),
            ("CNI_ARGS", "IgnoreUnknown=1;IP=10.0.0.9"),
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
        let Ok(Command::Add { pod, .. }) = add("CNI_ARGS", args) else { panic!("not an ADD") };
        assert_eq!(pod, PodRef { namespace: "ns1".into(), name: "p1".into(), uid: "u-1".into() });
    }
}

//! The kernel settings a node that routes for pods needs.
//!
//! | setting | value | why |
//! |---|---|---|
//! | `net.ipv4.ip_forward`, `net.ipv6.conf.all.forwarding` | 1 | the node is a router |
//! | `net.ipv6.conf.IF.accept_ra` | 1 → 2 | 1 means "unless forwarding": the node would lose a default route it has from router advertisements |
//! | `net.ipv{4,6}.fib_multipath_hash_policy` | 1 | ECMP by ports too, or all traffic of two pods takes one path |
//! | `net.ipv4.conf.{all,default,IF}.rp_filter` | 1 → 2 | with two routers an answer may come in where we would not send; the larger of `all` and the interface's own counts |
//! | `net.ipv{4,6}.neigh.default.gc_thresh*` | at least | 1,024 neighbours are few for a large rack |
//!
//! Interfaces made later inherit from `default`; forwarding there the kernel sets together with `all`. The agent looks
//! again every few seconds, for others set these too (sysctl.d at a package's installation, systemd-networkd, tuned).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use manx_cni::protocol::HOST_IFNAME_PREFIX;

const NEIGHBOUR_THRESHOLDS: [(&str, u64); 3] =
    [("gc_thresh1", 2048), ("gc_thresh2", 8192), ("gc_thresh3", 16384)];

/// What [`prepare_node`] did.
#[derive(Debug, Default)]
pub struct Report {
    /// Settings changed.
    pub changed: Vec<Change>,
    /// Settings that could not be read or written.
    pub failed: Vec<SysctlError>,
}

/// One setting changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// As a path below `/proc/sys`, as sysctl(8) takes it: an interface's name may hold dots.
    pub name: String,
    /// What it was.
    pub from: String,
    /// What it is now.
    pub to: String,
}

/// A setting that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{name} should be {wanted}, but {root} cannot be {what}: {source}{}", hint(source), root = .root.display())]
pub struct SysctlError {
    /// As in [`Change`].
    pub name: String,
    /// What it should be.
    pub wanted: String,
    /// Where the settings are.
    pub root: PathBuf,
    /// "read" or "written".
    pub what: &'static str,
    /// The file's error.
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            "; the node's own /proc/sys/net must be mounted somewhere below --proc-sys, or the node must set it itself"
        }
        _ => "",
    }
}

/// Makes the calling thread's network namespace one that routes. Writes only what differs.
///
/// `root` is `/proc/sys`, or where it is mounted as well: a container's own is read-only.
pub fn prepare_node(root: &Path) -> Report {
    Sysctls { root: root.to_owned(), report: Report::default() }.prepare()
}

struct Sysctls {
    root: PathBuf,
    report: Report,
}

impl Sysctls {
    fn prepare(mut self) -> Report {
        self.set("net/ipv4/ip_forward", "1");
        for name in names(&self.root.join("net/ipv4/conf")) {
            let name = format!("net/ipv4/conf/{name}/rp_filter");
            self.change_if_there(&name, |value| (value == "1").then(|| "2".to_owned()));
        }
        let families: &[_] = if self.root.join("net/ipv6").exists() { &["ipv4", "ipv6"] } else { &["ipv4"] };
        if families.contains(&"ipv6") {
            // Before forwarding: turning that on drops the routes learned by interfaces that have 1.
            self.keep_router_advertisements();
            self.set("net/ipv6/conf/all/forwarding", "1");
        }
        for family in families {
            self.set(&format!("net/{family}/fib_multipath_hash_policy"), "1");
            for (threshold, least) in NEIGHBOUR_THRESHOLDS {
                let name = format!("net/{family}/neigh/default/{threshold}");
                // Only the first network namespace has them, for all.
                if self.root.join(&name).exists() {
                    self.change(&name, |value| match value.parse::<u64>() {
                        Ok(value) if value >= least => None,
                        _ => Some(least.to_string()),
                    });
                }
            }
        }
        self.report
    }

    fn keep_router_advertisements(&mut self) {
        for name in names(&self.root.join("net/ipv6/conf")) {
            let is_uplink =
                !matches!(name.as_str(), "all" | "default" | "lo") && !name.starts_with(HOST_IFNAME_PREFIX);
            let folder = format!("net/ipv6/conf/{name}");
            // One that forwards already takes no advertisements, and shall not begin to.
            if is_uplink && read(&self.root.join(&folder).join("forwarding")).is_ok_and(|value| value == "0")
            {
                self.change(&format!("{folder}/accept_ra"), |value| (value == "1").then(|| "2".to_owned()));
            }
        }
    }

    fn set(&mut self, name: &str, wanted: &str) {
        self.change(name, |value| (value != wanted).then(|| wanted.to_owned()));
    }

    /// As [`Sysctls::change`]; an interface may have gone since it was seen.
    fn change_if_there(&mut self, name: &str, decide: impl Fn(&str) -> Option<String>) {
        if self.root.join(name).exists() {
            self.change(name, decide);
        }
    }

    /// Replaces the value of `name` by what `decide` makes of it.
    fn change(&mut self, name: &str, decide: impl Fn(&str) -> Option<String>) {
        let path = self.root.join(name);
        let failed = |what, wanted: String, source| SysctlError {
            name: name.to_owned(),
            wanted,
            root: self.root.clone(),
            what,
            source,
        };
        let from = match read(&path) {
            Ok(value) => value,
            Err(source) => {
                let wanted = decide("").unwrap_or_else(|| "as the kernel has it".to_owned());
                return self.report.failed.push(failed("read", wanted, source));
            }
        };
        let Some(to) = decide(&from) else { return };
        match fs::write(&path, &to) {
            Ok(()) => self.report.changed.push(Change { name: name.to_owned(), from, to }),
            Err(source) => self.report.failed.push(failed("written", to, source)),
        }
    }
}

/// What a directory holds, in order.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `/proc/sys` with these settings.
    fn tree(settings: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, value) in settings {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
        }
        root
    }

    fn prepare(root: &Path) -> Report {
        Sysctls { root: root.to_owned(), report: Report::default() }.prepare()
    }

    fn changes(report: &Report) -> Vec<String> {
        report.changed.iter().map(|change| format!("{} {} {}", change.name, change.from, change.to)).collect()
    }

    #[test]
    fn a_node_is_made_a_router_once_and_keeps_its_advertised_default_route() {
        let root = tree(&[
            ("net/ipv4/ip_forward", "0"),
            ("net/ipv4/conf/all/rp_filter", "1"),
            ("net/ipv4/conf/eth0/rp_filter", "1"),
            ("net/ipv4/conf/eth1/rp_filter", "0"),
            ("net/ipv4/fib_multipath_hash_policy", "0"),
            ("net/ipv4/neigh/default/gc_thresh1", "128"),
            ("net/ipv4/neigh/default/gc_thresh3", "100000"),
            ("net/ipv6/fib_multipath_hash_policy", "1"),
            ("net/ipv6/conf/all/forwarding", "0"),
            ("net/ipv6/conf/all/accept_ra", "1"),
            ("net/ipv6/conf/eth0/forwarding", "0"),
            ("net/ipv6/conf/eth0/accept_ra", "1"),
            ("net/ipv6/conf/eth1/forwarding", "1"),
            ("net/ipv6/conf/eth1/accept_ra", "1"),
            ("net/ipv6/conf/manxabc/forwarding", "0"),
            ("net/ipv6/conf/manxabc/accept_ra", "1"),
        ]);
        let report = prepare(root.path());
        assert!(report.failed.is_empty(), "{report:?}");
        assert_eq!(
            changes(&report),
            [
                "net/ipv4/ip_forward 0 1",
                "net/ipv4/conf/all/rp_filter 1 2",
                "net/ipv4/conf/eth0/rp_filter 1 2",
                "net/ipv6/conf/eth0/accept_ra 1 2",
                "net/ipv6/conf/all/forwarding 0 1",
                "net/ipv4/fib_multipath_hash_policy 0 1",
                "net/ipv4/neigh/default/gc_thresh1 128 2048",
            ]
        );
        assert_eq!(changes(&prepare(root.path())), [""; 0]);
    }

    #[test]
    fn a_setting_that_cannot_be_read_is_named() {
        let root = tree(&[("net/ipv4/conf/all/rp_filter", "0"), ("net/ipv4/fib_multipath_hash_policy", "1")]);
        let report = prepare(root.path());
        let words = report.failed[0].to_string();
        let expected =
            format!("net/ipv4/ip_forward should be 1, but {} cannot be read: ", root.path().display());
        assert!(words.starts_with(&expected), "{words}");
        assert_eq!((report.failed.len(), report.changed.len()), (1, 0));
    }
}

//! The kernel's settings.

use super::*;

#[test]
#[ignore = "needs root: make test"]
fn a_node_is_prepared_and_its_uplinks_mtu_found() {
    on_a_node(|| {
        ip("link set uplink mtu 1400");
        let addresses = ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(links::mtu_of_uplink(&addresses).unwrap(), Some(1400));
        assert_eq!(links::mtu_of_uplink(&["192.0.2.77".parse().unwrap()]).unwrap(), None);
        assert_eq!(links::index_of("none").unwrap(), None);

        let report = sysctl::prepare_node(Path::new("/proc/sys"));
        assert!(report.failed.is_empty(), "{report:?}");
        let changed: Vec<_> = report.changed.iter().map(|change| change.name.as_str()).collect();
        assert!(changed.contains(&"net/ipv6/conf/all/forwarding"), "{changed:?}");
        assert!(sysctl::prepare_node(Path::new("/proc/sys")).changed.is_empty());
    });
}

#[test]
#[ignore = "needs root: make test"]
fn a_setting_of_a_read_only_proc_sys_is_named_with_what_would_help() {
    on_a_node(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("/proc/sys"), "/proc/sys", none, MsFlags::MS_BIND, none).unwrap();
        let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, "/proc/sys", none, read_only, none).unwrap();
        let report = sysctl::prepare_node(Path::new("/proc/sys"));
        assert_eq!(report.changed, []);
        let words: Vec<String> = report.failed.iter().map(ToString::to_string).collect();
        let forwarding = words.iter().find(|words| words.starts_with("net/ipv4/ip_forward should be 1"));
        let forwarding = forwarding.unwrap_or_else(|| panic!("{words:?}"));
        assert!(
            forwarding.contains("Read-only file system") && forwarding.contains("--proc-sys"),
            "{words:?}"
        );
    });
}

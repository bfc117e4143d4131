use super::*;
use crate::api::Policy;

fn config(toml: &str) -> Config {
    toml::from_str(&format!("asn = 64512\nrouterId = \"10.0.0.1\"\n{toml}")).unwrap()
}

fn fault(toml: &str) -> String {
    check(&config(toml)).unwrap_err().to_string()
}

#[test]
fn faults_are_told_with_their_peer_and_what_would_be_right() {
    let peer = |rest: &str| format!("[[peers]]\naddress = \"10.0.0.2\"\nasn = 65001\n{rest}\n");
    assert_eq!(check(&config(&peer(""))), Ok(()));
    assert_eq!(
        fault(&peer("").repeat(2)),
        "peer 10.0.0.2: it is listed twice; a neighbour has one session, so list it once"
    );
    assert_eq!(fault(&peer("holdTime = 2")), "peer 10.0.0.2: holdTime is 2 s; it is 0 (none) or at least 3");
    assert!(fault(&peer("gracefulRestart = { restartTime = 4096 }")).contains("at most 4095"));
    assert!(
        fault(&peer("gracefulRestart = { preserveForwarding = true, longLivedStaleTime = 16777216 }"))
            .ends_with("longLivedStaleTime is 16777216 s; it is at most 16777215")
    );
    assert!(fault(&peer("gracefulRestart = { longLivedLimit = 16777216 }")).contains("longLivedLimit"));
    assert!(
        fault(&peer("gracefulRestart = { longLivedStaleTime = 60 }")).contains("without preserveForwarding")
    );
    let long = "secret".repeat(14);
    let told = fault(&peer(&format!("password = \"{long}\"")));
    assert!(told.contains("84 octets") && !told.contains("secret"), "{told}");
    assert!(fault(&peer("password = \"\"")).contains("0 octets"));
    let key = |id: u8, secret: &str| format!("{{ sendId = {id}, recvId = {id}, secret = \"{secret}\" }}");
    let keys = |keys: &[String]| peer(&format!("tcpAo = [{}]", keys.join(", ")));
    assert_eq!(check(&config(&keys(&[key(0, "a"), key(255, "b")]))), Ok(()));
    assert!(
        fault(&keys(&[key(7, "a"), key(7, "b")]))
            .ends_with("two keys of tcpAo have sendId 7: each has its own")
    );
    assert!(fault(&keys(&[key(7, "")])).contains("0 octets; it has 1 to 80"));
    let told = fault(&keys(&[key(7, &long)]));
    assert!(told.contains("84 octets") && !told.contains("secretsecret"), "{told}");
    assert!(fault(&(keys(&[key(7, "a")]) + "password = \"k\"\n")).contains("exclude each other"));
    assert!(fault(&peer("ttlSecurity = 255")).contains("1 to 254"));
    assert!(fault(&peer("multihop = 0")).contains("1 to 255"));
    assert!(fault(&peer("multihop = 2\nttlSecurity = 2")).contains("exclude each other"));
    assert!(fault(&peer("keepalive = 31")).contains("keepalive is 31 s with a holdTime of 90 s"));
    assert!(fault(&peer("keepalive = 0")).contains("at least 1"));
    assert!(fault(&peer("holdTime = 0\nkeepalive = 9")).contains("no KEEPALIVEs"));
    assert_eq!(check(&config(&peer("holdTime = 0\nkeepalive = 0"))), Ok(()));
    assert_eq!(check(&config(&peer("holdTime = 3\nkeepalive = 1\nsendHoldTime = 4"))), Ok(()));
    assert!(fault(&peer("sendHoldTime = 90")).contains("more than holdTime"));
    let limits = |limits: &str| peer(&format!("maxPrefixes = {{ {limits} }}"));
    assert_eq!(check(&config(&limits("ipv4 = 9, restartAfter = 1"))), Ok(()));
    assert!(fault(&limits("ipv6 = 0")).ends_with("refuse it by the import policy"));
    assert!(fault(&limits("warnPercent = 101")).contains("1 to 100"));
    assert!(fault(&limits("restartAfter = 0")).contains("1 to 86400"));
    assert!(fault(&limits("action = \"warn\", restartAfter = 9")).contains("nothing is ended"));
    assert!(fault(&peer("connectRetry = 0")).contains("at least 1"));
    assert!(fault(&peer("families = []")).contains("\"ipv4\""));
    assert!(fault(&peer("port = 0")).contains("179"));
    assert!(fault(&peer("localAddress = \"fd00::1\"")).contains("fd00::1 is of the other family"));
    assert!(fault(&peer("localAddress = \"10.0.0.2\"")).contains("own address"));
    assert!(fault("[[peers]]\naddress = \"fe80::1\"\nasn = 1\n").contains("link-local"));
    assert!(fault("[[peers]]\naddress = \"0.0.0.0\"\nasn = 1\n").contains("address is missing"));
    assert!(fault("[[peers]]\naddress = \"224.0.0.1\"\nasn = 1\n").contains("one host"));
    assert!(fault("[[peers]]\naddress = \"10.0.0.2\"\n").contains("asn is missing"));
    let on_link = "[[peers]]\naddress = \"fe80::1\"\ninterface = \"eth1\"\nasn = 1\n";
    assert_eq!(check(&config(on_link)), Ok(()));
    assert_eq!(check(&config(&on_link.replace("address = \"fe80::1\"\n", ""))), Ok(()));
    assert!(fault(&format!("{on_link}multihop = 2")).starts_with("peer fe80::1%eth1: multihop is 2"));
    assert!(fault("[[peers]]\naddress = \"10.0.0.2\"\nasn = 0\n").contains("asn is missing or 0"));
    assert!(fault(&peer("localAsn = 65001")).contains("localAsn is 65001"));
    assert!(fault(&peer("routeReflectorClient = true")).contains("our own AS"));
    assert!(fault(&peer("bilateral = true").replace("65001", "64512")).contains("another AS"));
    assert_eq!(check(&config(&peer("bilateral = true"))), Ok(()));
    assert!(fault("clusterId = \"0.0.0.0\"").contains("clusterId"));
    let way = |gateway| format!("[[underlay]]\nprefix = \"10.1.0.0/16\"\ngateway = \"{gateway}\"\n");
    assert_eq!(check(&config(&way("10.0.0.1"))), Ok(()));
    assert_eq!(check(&config(&way("fe80::1"))), Ok(()));
    assert!(fault(&way("0.0.0.0")).contains("0.0.0.0 is no gateway to 10.1.0.0/16"));
    assert_eq!(check(&config(&peer("bfd = {}"))), Ok(()));
    assert!(fault(&peer("bfd = { minTxMs = 9 }")).ends_with("bfd.minTxMs is 9 ms; it is 10 to 60000"));
    assert!(fault(&peer("bfd = { minRxMs = 60001 }")).contains("bfd.minRxMs is 60001 ms"));
    assert!(fault(&peer("bfd = { multiplier = 1 }")).ends_with("bfd.multiplier is 1; it is 2 to 50"));
    assert!(fault("listen = [\"[::]:179\", \"[::]:179\"]").contains("[::]:179 twice"));
    assert!(fault("[[networks]]\nprefix = \"10.1.0.0/26\"\ncommunities = [\"x\"]").contains("10.1.0.0/26"));
    assert_eq!(check(&Config { asn: Asn(0), ..config("") }), Err(ConfigError::NoAsn));
}

#[test]
fn faults_of_ranges_are_told_with_the_range() {
    let range = |rest: &str| format!("[[ranges]]\nprefix = \"10.0.0.0/24\"\nasns = [65001]\n{rest}\n");
    assert_eq!(check(&config(&range(""))), Ok(()));
    assert_eq!(check(&config(&range("[ranges.settings]\nholdTime = 9\npassword = \"k\""))), Ok(()));
    assert_eq!(fault(&range("").repeat(2)), "range 10.0.0.0/24: it is listed twice: list it once");
    assert!(fault(&range("").replace("65001", "")).contains("asns is empty"));
    assert!(fault(&range("limit = 0")).contains("at least 1"));
    assert!(fault(&range("[ranges.settings]\nasn = 1")).contains("settings.asn is not for a range"));
    assert!(fault(&range("[ranges.settings]\nholdTime = 1")).contains("settings: holdTime is 1 s"));
    assert!(fault(&range("[ranges.settings]\nrouteReflectorClient = true")).contains("our own AS"));
    let link_local = range("").replace("10.0.0.0/24", "fe80::/10");
    assert!(fault(&link_local).contains("settings.interface"));
    assert_eq!(check(&config(&format!("{link_local}[ranges.settings]\ninterface = \"eth1\""))), Ok(()));
}

#[test]
fn one_address_has_one_password() {
    let peer = |interface: &str, password: &str| {
        format!(
            "[[peers]]\naddress = \"fe80::1\"\ninterface = \"{interface}\"\nasn = 1\npassword = \"{password}\"\n"
        )
    };
    assert_eq!(check(&config(&(peer("eth1", "a") + &peer("eth2", "a")))), Ok(()));
    let told = fault(&(peer("eth1", "a") + &peer("eth2", "b")));
    assert!(told.starts_with("peer fe80::1%eth1 and peer fe80::1%eth2 hold the same address"), "{told}");
    let range = "[[ranges]]\nprefix = \"10.0.0.0/24\"\nasns = [65001]\nsettings = { password = \"k\" }\n";
    let inside = "[[peers]]\naddress = \"10.0.0.2\"\nasn = 65001\n";
    assert!(fault(&format!("{range}{inside}")).starts_with("peer 10.0.0.2 and range 10.0.0.0/24"));
    assert_eq!(check(&config(&format!("{range}{inside}password = \"other\"\n"))), Ok(()));
}

#[test]
fn a_password_is_in_no_debug_output() {
    let config = config(
        "[[peers]]\naddress = \"10.0.0.2\"\nasn = 1\npassword = \"hunter2\"\n\
         [[peers]]\naddress = \"10.0.0.3\"\nasn = 1\ntcpAo = [{ sendId = 1, recvId = 2, secret = \"hunter2\" }]\n",
    );
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(describe(None, &config).iter().all(|line| !line.contains("hunter2")));
}

#[test]
fn only_what_differs_is_told() {
    let old = config(
        "listen = [\"0.0.0.0:179\"]\n\
         [[peers]]\naddress = \"10.0.0.2\"\nasn = 64512\nname = \"node2\"\n\
         [[peers]]\naddress = \"10.0.0.3\"\nasn = 64512\n\
         [[networks]]\nprefix = \"10.1.0.0/26\"\n",
    );
    assert!(describe(Some(&old), &old).is_empty());
    assert_eq!(describe(None, &old).len(), 5);
    let mut new = old.clone();
    new.peers.remove(1);
    new.peers[0].hold_time = 9;
    new.peers[0].export = Some(Policy::accept());
    new.networks[0].communities = vec!["64512:1".to_owned()];
    new.listen.clear();
    assert_eq!(
        describe(Some(&old), &new),
        [
            "no longer listening on 0.0.0.0:179",
            "peer 10.0.0.3 removed",
            "peer node2 (10.0.0.2, AS64512): export policy changed, session settings changed, it restarts",
            "network 10.1.0.0/26 now has communities [64512:1]",
        ]
    );
}

#[test]
fn policies_names_and_bfd_need_no_new_session() {
    let old = config("[[peers]]\naddress = \"10.0.0.2\"\nasn = 64512\n").peers.remove(0);
    let policy = PeerConfig {
        name: "tor1".to_owned(),
        import: Some(Policy::reject()),
        export: Some(Policy::accept()),
        bfd: Some(Bfd::default()),
        max_prefixes: MaxPrefixes { ipv4: 9, ..MaxPrefixes::default() },
        ..old.clone()
    };
    assert!(!needs_restart(&old, &policy));
    assert!(needs_restart(&old, &PeerConfig { hold_time: 9, ..old.clone() }));
    assert!(needs_restart(&old, &PeerConfig { next_hops: vec![old.address], ..old.clone() }));
}

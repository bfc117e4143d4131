//! Calico's objects (crd.projectcalico.org/v1, projectcalico.org/v3) as Manx's.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value, json};

use super::{Source, Step, filter, object, selector};

/// What is read: kind and plural.
pub const KINDS: [(&str, &str); 5] = [
    ("IPPool", "ippools"),
    ("IPReservation", "ipreservations"),
    ("BGPConfiguration", "bgpconfigurations"),
    ("BGPPeer", "bgppeers"),
    ("BGPFilter", "bgpfilters"),
];

/// Calico's AS number where nothing is said.
const DEFAULT_AS: u64 = 64512;

/// Whether a document is one of Calico's objects that are read.
pub fn is_one(document: &Value) -> bool {
    let api = document["apiVersion"].as_str().unwrap_or_default();
    let group = api.split('/').next().unwrap_or_default();
    matches!(group, "crd.projectcalico.org" | "projectcalico.org")
        && KINDS.iter().any(|(kind, _)| document["kind"] == *kind)
}

/// What becomes of each.
pub fn steps(sources: &[Source]) -> Vec<Step> {
    let default_as = sources
        .iter()
        .filter(|source| source.kind == "BGPConfiguration" && source.metadata.name == "default")
        .find_map(|source| source.spec.get("asNumber").and_then(number))
        .unwrap_or(DEFAULT_AS);
    let mut steps: Vec<Step> = Vec::new();
    for (kind, _) in KINDS {
        for source in sources.iter().filter(|source| source.kind == kind) {
            let mut reading = Reading { spec: source.spec.clone(), notes: Vec::new() };
            let objects = match kind {
                "IPPool" => reading.pool(&source.metadata.name),
                "BGPConfiguration" => reading.configuration(&source.metadata.name),
                "BGPPeer" => reading.peer(&source.metadata.name, default_as),
                "IPReservation" => reading.reservation(&source.metadata.name),
                _ => reading.filter(&source.metadata.name, default_as),
            };
            if !objects.is_empty() {
                reading.rest();
            }
            let of = format!("Calico's {kind} {}", source.metadata.name);
            steps.push(Step { of, notes: reading.notes, objects });
        }
    }
    let has_default = |step: &Step| step.objects.iter().any(|object| object["kind"] == "BGPConfiguration");
    if !steps.is_empty() && !steps.iter().any(has_default) {
        // Calico goes by its defaults then.
        let spec = json!({ "asNumber": DEFAULT_AS, "mesh": "Full" });
        let of = "Calico's BGPConfiguration default, which is not there: its defaults".to_owned();
        let objects = vec![object("BGPConfiguration", "default", spec)];
        steps.push(Step { of, notes: Vec::new(), objects });
    }
    steps
}

/// One spec, from which is taken what is understood; the rest is told.
struct Reading {
    spec: Map<String, Value>,
    notes: Vec<String>,
}

impl Reading {
    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.spec.remove(key).filter(|value| !value.is_null())
    }

    fn text(&mut self, key: &str) -> Option<String> {
        self.take(key)?.as_str().map(str::to_owned).filter(|text| !text.is_empty())
    }

    fn flag(&mut self, key: &str) -> Option<bool> {
        self.take(key)?.as_bool()
    }

    /// Puts a selector; `Err` when there is none that says the same, which is noted.
    fn selector(&mut self, key: &str, spec: &mut Value) -> Result<(), ()> {
        let Some(text) = self.text(key) else { return Ok(()) };
        match selector::convert(&text) {
            Ok(None) => Ok(()),
            Ok(Some(selector)) => {
                spec[key] = selector;
                Ok(())
            }
            Err(why) => {
                self.note(format!("spec.{key}: {why}"));
                Err(())
            }
        }
    }

    /// What nobody has asked for: said, unless it says nothing.
    fn rest(&mut self) {
        for (key, value) in std::mem::take(&mut self.spec) {
            let empty = match &value {
                Value::Null | Value::Bool(false) => true,
                Value::String(text) => text.is_empty(),
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                Value::Bool(true) | Value::Number(_) => false,
            };
            if !empty {
                self.note(format!("spec.{key} has no counterpart: it was {value}"));
            }
        }
    }

    fn pool(&mut self, name: &str) -> Vec<Value> {
        let Some(cidr) = self.text("cidr") else {
            self.note("spec.cidr is missing");
            return Vec::new();
        };
        let mut spec = json!({ "cidr": cidr });
        if let Some(size) = self.take("blockSize") {
            spec["blockSize"] = size;
        }
        if self.flag("disabled") == Some(true) {
            spec["disabled"] = json!(true);
        }
        for (key, what) in [("ipipMode", "IPIP"), ("vxlanMode", "VXLAN")] {
            if let Some(mode) = self.text(key).filter(|mode| mode != "Never") {
                self.note(format!(
                    "spec.{key} was {mode}: Manx does not encapsulate ({what}); routers between nodes of different \
                     networks must learn the pods' routes by BGP, or pods there are not reached"
                ));
            }
        }
        if self.flag("natOutgoing") == Some(true) {
            spec["natOutgoing"] = json!(true);
        }
        if self.flag("disableBGPExport") == Some(true) {
            spec["bgpExport"] = json!(false);
        }
        let uses = self.take("allowedUses").unwrap_or_default();
        let uses: Vec<&str> = uses.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let known = [("Workload", "Pods"), ("LoadBalancer", "Services")];
        let known = known.into_iter().filter(|(theirs, _)| uses.contains(theirs));
        let known: Vec<&str> = known.map(|(_, ours)| ours).collect();
        if !uses.is_empty() && known.is_empty() {
            self.note(format!(
                "spec.allowedUses was {}: Manx has no tunnels to give addresses to",
                uses.join(", ")
            ));
            return Vec::new();
        }
        match known.as_slice() {
            ["Services"] => spec["allowedUses"] = json!(known),
            [_, _] => self.note(
                "spec.allowedUses had Workload and LoadBalancer: a pool of Manx's is for one of the two, this one for pods; \
                 give Services a part of the range that no pod has, as a pool of its own",
            ),
            _ => {}
        }
        if self.text("assignmentMode").is_some_and(|mode| mode == "Manual") {
            self.note("spec.assignmentMode was Manual: its addresses were given to pods that asked for them; disabled here");
            spec["disabled"] = json!(true);
        }
        let selected = ["nodeSelector", "namespaceSelector"].map(|key| self.selector(key, &mut spec));
        if selected.iter().any(Result::is_err) {
            return Vec::new();
        }
        vec![object("IPPool", name, spec)]
    }

    fn reservation(&mut self, name: &str) -> Vec<Value> {
        let addresses = self.take("reservedCIDRs").unwrap_or_else(|| json!([]));
        match addresses.as_array().is_some_and(|addresses| !addresses.is_empty()) {
            true => vec![object("IPReservation", name, json!({ "addresses": addresses }))],
            false => Vec::new(),
        }
    }

    fn configuration(&mut self, name: &str) -> Vec<Value> {
        if name != "default" {
            self.note("Manx has no BGPConfiguration of a single node");
            return Vec::new();
        }
        let mut spec = json!({ "asNumber": DEFAULT_AS });
        if let Some(asn) = self.take("asNumber").as_ref().and_then(number) {
            spec["asNumber"] = json!(asn);
        }
        let mesh = self.flag("nodeToNodeMeshEnabled").unwrap_or(true);
        spec["mesh"] = json!(if mesh { "Full" } else { "None" });
        if let Some(port) = self.take("listenPort").as_ref().and_then(number) {
            spec["listenPort"] = json!(port);
        }
        // How BIRD logs is nothing to move.
        self.take("logSeverityScreen");
        self.services(&mut spec);
        self.advertisements(&mut spec);
        if let Some(seconds) = self.seconds("nodeMeshMaxRestartTime") {
            spec["gracefulRestart"] = json!({ "restartTimeSeconds": seconds });
        }
        self.password("nodeMeshPassword", &mut spec);
        vec![object("BGPConfiguration", name, spec)]
    }

    /// Calico announces these ranges whole, and beside them single addresses of Services with a local traffic policy.
    fn services(&mut self, spec: &mut Value) {
        let whole = self.text("serviceLoadBalancerAggregation").is_none_or(|said| said != "Disabled");
        let mut ranges = Vec::new();
        for (key, aggregate) in
            [("serviceClusterIPs", true), ("serviceExternalIPs", true), ("serviceLoadBalancerIPs", whole)]
        {
            let theirs = self.take(key).unwrap_or_default();
            let cidrs = theirs.as_array().into_iter().flatten().map(|block| &block["cidr"]);
            ranges.extend(cidrs.map(|cidr| json!({ "cidr": cidr, "aggregate": aggregate })));
        }
        if !ranges.is_empty() {
            spec["serviceAddresses"] = json!({ "ranges": ranges });
        }
    }

    /// Communities of what is announced; their names stand for their values.
    fn advertisements(&mut self, spec: &mut Value) {
        let named = self.take("communities").unwrap_or_default();
        let value_of = |said: &str| {
            let named = named.as_array().into_iter().flatten().find(|one| one["name"] == said);
            named.and_then(|one| one["value"].as_str()).unwrap_or(said).to_owned()
        };
        let theirs = self.take("prefixAdvertisements").unwrap_or_default();
        let mut ours = Vec::new();
        for advertisement in theirs.as_array().into_iter().flatten() {
            let said =
                advertisement["communities"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let (large, standard): (Vec<_>, Vec<_>) =
                said.map(value_of).partition(|value| value.matches(':').count() == 2);
            if !large.is_empty() {
                self.note(format!(
                    "spec.prefixAdvertisements of {}: large communities ({}) are attached by a BGPFilter's export rule \
                     (set.addCommunities), named by each BGPPeer",
                    advertisement["cidr"],
                    large.join(", ")
                ));
            }
            if !standard.is_empty() {
                ours.push(json!({ "cidr": advertisement["cidr"], "communities": standard }));
            }
        }
        if !ours.is_empty() {
            spec["prefixAdvertisements"] = json!(ours);
        }
    }

    /// A duration of whole seconds, as Go writes it: `2m0s`, `120s`.
    fn seconds(&mut self, key: &str) -> Option<u64> {
        let text = self.text(key)?;
        let (mut total, mut number) = (Some(0), String::new());
        for letter in text.chars() {
            let unit = match letter {
                'h' => 3600,
                'm' => 60,
                's' => 1,
                digit => {
                    number.push(digit);
                    continue;
                }
            };
            let count: Option<u64> = std::mem::take(&mut number).parse().ok();
            total = total.zip(count).map(|(total, count)| total + count * unit);
        }
        if let Some(seconds) = total.filter(|seconds| *seconds > 0 && number.is_empty()) {
            return Some(seconds);
        }
        self.note(format!("spec.{key} was {text}, which is not whole seconds: Manx's default is in force"));
        None
    }

    fn peer(&mut self, name: &str, default_as: u64) -> Vec<Value> {
        if self.spec.contains_key("peerSelector") {
            return self.peer_nodes(name);
        }
        let Some(peer) = self.text("peerIP") else {
            self.note("spec.peerIP is missing");
            return Vec::new();
        };
        let (address, port) = match (peer.parse::<IpAddr>(), peer.parse::<SocketAddr>()) {
            (Ok(address), _) => (address, None),
            (_, Ok(both)) => (both.ip(), Some(both.port())),
            _ => {
                self.note(format!("spec.peerIP \"{peer}\" is no address"));
                return Vec::new();
            }
        };
        let asn = self.take("asNumber").as_ref().and_then(number).filter(|asn| *asn != 0);
        let mut spec = json!({ "address": address, "asNumber": asn.unwrap_or(default_as) });
        if let Some(port) = port {
            spec["port"] = json!(port);
        }
        if let Some(node) = self.text("node") {
            spec["nodeSelector"] = json!({ "matchLabels": { "kubernetes.io/hostname": node } });
            self.note(
                "spec.node: by the label kubernetes.io/hostname, which is the node's name on most nodes",
            );
        } else if self.selector("nodeSelector", &mut spec).is_err() {
            return Vec::new();
        }
        self.session(&mut spec);
        vec![object("BGPPeer", name, spec)]
    }

    /// Nodes that peer with nodes.
    fn peer_nodes(&mut self, name: &str) -> Vec<Value> {
        let mut spec = json!({ "peerSelector": {} });
        let selected = ["nodeSelector", "peerSelector"].map(|key| self.selector(key, &mut spec));
        if selected.iter().any(Result::is_err) {
            return Vec::new();
        }
        self.note(
            "spec.peerSelector: where these nodes reflect routes (Calico says so on each Node), give a clusterId, and they \
             will for those of nodeSelector",
        );
        self.session(&mut spec);
        vec![object("BGPPeer", name, spec)]
    }

    /// What every kind of neighbour may have.
    fn session(&mut self, spec: &mut Value) {
        self.password("password", spec);
        if self.flag("keepOriginalNextHop") == Some(true) {
            spec["nextHop"] = json!("Keep");
        }
        if self.text("sourceAddress").is_some_and(|source| source == "None") {
            spec["source"] = json!("Interface");
        }
        let numbers = [
            ("localASNumber", "localAsNumber"),
            ("numAllowedLocalASNumbers", "allowOwnAs"),
            ("ttlSecurity", "ttlSecurity"),
        ];
        for (theirs, ours) in numbers {
            if let Some(value) = self.take(theirs).as_ref().and_then(number) {
                spec[ours] = json!(value);
            }
        }
        if let Some(mode) = self.text("nextHopMode") {
            spec["nextHop"] = json!(mode);
        }
        if let Some(seconds) = self.seconds("maxRestartTime") {
            spec["gracefulRestart"] = json!({ "restartTimeSeconds": seconds });
        }
        if let Some(seconds) = self.seconds("keepaliveTime") {
            spec["keepaliveSeconds"] = json!(seconds);
            // Calico leaves the hold time at BIRD's 240 seconds.
            spec["holdTimeSeconds"] = json!(240.max(seconds * 3));
        }
        if let Some(gateway) = self.text("reachableBy") {
            self.note(format!(
                "spec.reachableBy: Manx calls neighbours by the node's own routes; have the nodes know a route to it by \
                 {gateway}"
            ));
        }
        if let Some(filters) = self.take("filters").filter(|filters| *filters != json!([])) {
            spec["filters"] = filters;
        }
    }

    fn password(&mut self, key: &str, spec: &mut Value) {
        let Some(password) = self.take(key) else { return };
        let (name, entry) = (&password["secretKeyRef"]["name"], &password["secretKeyRef"]["key"]);
        if name.is_string() && entry.is_string() {
            spec["password"] = json!({ "name": name, "key": entry });
            self.note(format!("spec.{key}: copy the Secret {name} into Manx's namespace, manx-system"));
        }
    }

    fn filter(&mut self, name: &str, default_as: u64) -> Vec<Value> {
        match filter::convert(std::mem::take(&mut self.spec), default_as) {
            Ok((spec, notes)) => {
                self.notes.extend(notes);
                vec![object("BGPFilter", name, spec)]
            }
            Err(missing) => {
                self.notes.extend(missing);
                self.note(
                    "is not converted, since not all of it can be: write Manx's of the same name (`kubectl explain \
                     bgpfilter.spec`). Until it is there, BGPPeers that name it tell and take no routes",
                );
                Vec::new()
            }
        }
    }
}

/// AS numbers are written as numbers, as strings of a number, and as `asdot` strings (RFC 5396).
pub(super) fn number(value: &Value) -> Option<u64> {
    if let Some(number) = value.as_u64() {
        return Some(number);
    }
    let text = value.as_str()?;
    match text.split_once('.') {
        None => text.parse().ok(),
        Some((high, low)) => {
            Some(u64::from(high.parse::<u16>().ok()?) << 16 | u64::from(low.parse::<u16>().ok()?))
        }
    }
}

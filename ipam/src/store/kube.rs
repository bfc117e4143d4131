//! Blocks as custom resources.

use std::time::Duration;

use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::{Store, StoreError};
use crate::crd::{IPAMBlock, IPAMBlockStatus};

/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Objects a page of a list.
const PAGE: u32 = 500;

/// The API server's IPAMBlock objects.
#[derive(Clone, Debug)]
pub struct KubeStore(Api<IPAMBlock>);

impl KubeStore {
    /// Through this client.
    pub fn new(client: Client) -> Self {
        Self(Api::all(client))
    }
}

impl Store for KubeStore {
    async fn list_blocks(&self) -> Result<Vec<IPAMBlock>, StoreError> {
        let mut all = Vec::new();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = within_deadline("", self.0.list(&params)).await?;
            all.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(all),
            }
        }
    }

    async fn create_block(&self, block: &IPAMBlock) -> Result<(), StoreError> {
        within_deadline(&block.name_any(), self.0.create(&PostParams::default(), block)).await.map(drop)
    }

    async fn update_status(&self, name: &str, status: &IPAMBlockStatus) -> Result<(), StoreError> {
        let patch = Patch::Merge(json!({ "status": status }));
        within_deadline(name, self.0.patch_status(name, &PatchParams::default(), &patch)).await.map(drop)
    }

    async fn delete_block(&self, name: &str, uid: &str, version: Option<&str>) -> Result<(), StoreError> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: version.map(str::to_owned),
            }),
            ..DeleteParams::default()
        };
        match within_deadline(name, self.0.delete(name, &params)).await {
            Ok(_) | Err(StoreError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

async fn within_deadline<T>(
    name: &str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(result) => result.map_err(|error| explain(name, error)),
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {} s", DEADLINE.as_secs()))),
    }
}

fn explain(name: &str, error: kube::Error) -> StoreError {
    match error {
        kube::Error::Api(status) => match (status.code, status.reason.as_str()) {
            (409, "AlreadyExists") => StoreError::Exists(name.to_owned()),
            (404, _) if !name.is_empty() => StoreError::NotFound(name.to_owned()),
            // 410: a list's continuation is too old; the next list begins anew.
            (408 | 410 | 429 | 500.., _) => StoreError::Unavailable(status.message),
            _ => StoreError::Refused(status.message),
        },
        error => StoreError::Unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use http_body_util::BodyExt;
    use kube::client::Body;
    use serde_json::Value;

    use super::*;
    use crate::crd::IPAMBlockSpec;

    /// An API server that notes what it is asked and answers from a list; when that is at its end, it never answers.
    #[derive(Clone, Default)]
    struct Api {
        asked: Arc<Mutex<Vec<(String, Value)>>>,
        answers: Arc<Mutex<VecDeque<(u16, Value)>>>,
    }

    impl Api {
        fn answer(&self, code: u16, body: Value) {
            self.answers.lock().unwrap().push_back((code, body));
        }

        fn refuse(&self, code: u16, reason: &str) {
            let message = format!("{reason} it says");
            let status = json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message});
            self.answer(code, status);
        }

        fn asked(&self) -> Vec<(String, Value)> {
            std::mem::take(&mut self.asked.lock().unwrap())
        }

        fn store(&self) -> KubeStore {
            let api = self.clone();
            let service = tower::service_fn(move |request: Request<Body>| {
                let api = api.clone();
                async move {
                    let line = format!("{} {}", request.method(), request.uri());
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    api.asked.lock().unwrap().push((line, serde_json::from_slice(&body).unwrap_or_default()));
                    let answer = api.answers.lock().unwrap().pop_front();
                    let Some((code, body)) = answer else { return std::future::pending().await };
                    let body = Body::from(serde_json::to_vec(&body).unwrap());
                    Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(body).unwrap())
                }
            });
            KubeStore::new(Client::new(service, "default"))
        }
    }

    fn block() -> IPAMBlock {
        let spec = IPAMBlockSpec {
            cidr: "10.0.0.0/26".to_owned(),
            pool: "default".to_owned(),
            node: "node1".to_owned(),
            parent: None,
        };
        let mut block = IPAMBlock::new("10-0-0-0-26", spec);
        block.metadata.uid = Some("u1".to_owned());
        block
    }

    #[tokio::test]
    async fn a_name_that_is_taken_is_told_from_every_other_refusal() {
        let api = Api::default();
        let name = "10-0-0-0-26".to_owned();
        for (code, reason, expected) in [
            (409, "AlreadyExists", StoreError::Exists(name.clone())),
            (409, "Conflict", StoreError::Refused("Conflict it says".to_owned())),
            (403, "Forbidden", StoreError::Refused("Forbidden it says".to_owned())),
            (422, "Invalid", StoreError::Refused("Invalid it says".to_owned())),
            (410, "Expired", StoreError::Unavailable("Expired it says".to_owned())),
            (429, "TooManyRequests", StoreError::Unavailable("TooManyRequests it says".to_owned())),
            (503, "ServiceUnavailable", StoreError::Unavailable("ServiceUnavailable it says".to_owned())),
        ] {
            api.refuse(code, reason);
            assert_eq!(api.store().create_block(&block()).await, Err(expected), "{code} {reason}");
        }
        api.answer(201, json!(block()));
        assert_eq!(api.store().create_block(&block()).await, Ok(()));
        let (line, body) = api.asked().pop().unwrap();
        assert_eq!(line, "POST /apis/manx.io/v1alpha1/ipamblocks?");
        assert_eq!(body["metadata"]["name"], "10-0-0-0-26");
        assert_eq!(body["spec"]["node"], "node1");
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_end() {
        let api = Api::default();
        for (name, next) in [("10-0-0-0-26", "more"), ("10-0-0-64-26", "")] {
            let item = json!({"metadata": {"name": name}, "spec": block().spec});
            let list = json!({"metadata": {"continue": next}, "items": [item]});
            api.answer(200, list);
        }
        let names: Vec<String> =
            api.store().list_blocks().await.unwrap().iter().map(ResourceExt::name_any).collect();
        assert_eq!(names, ["10-0-0-0-26", "10-0-0-64-26"]);
        let lines: Vec<String> = api.asked().into_iter().map(|(line, _)| line).collect();
        assert!(lines[0].ends_with("ipamblocks?&limit=500"), "{lines:?}");
        assert!(lines[1].ends_with("&limit=500&continue=more"), "{lines:?}");
    }

    #[tokio::test]
    async fn a_status_is_patched_and_nothing_else() {
        let api = Api::default();
        api.answer(200, json!(block()));
        let status = IPAMBlockStatus { used: 1, free: 63, ..IPAMBlockStatus::default() };
        api.store().update_status("10-0-0-0-26", &status).await.unwrap();
        let (line, body) = api.asked().pop().unwrap();
        assert_eq!(line, "PATCH /apis/manx.io/v1alpha1/ipamblocks/10-0-0-0-26/status?");
        assert_eq!(body, json!({"status": {"used": 1, "free": 63, "allocations": []}}));
        api.refuse(404, "NotFound");
        let gone = api.store().update_status("10-0-0-0-26", &status).await;
        assert_eq!(gone, Err(StoreError::NotFound("10-0-0-0-26".to_owned())));
    }

    #[tokio::test]
    async fn only_the_very_object_is_deleted() {
        let api = Api::default();
        api.answer(200, json!({"kind": "Status", "status": "Success"}));
        api.store().delete_block("10-0-0-0-26", "u1", None).await.unwrap();
        let (line, body) = api.asked().pop().unwrap();
        assert!(line.starts_with("DELETE /apis/manx.io/v1alpha1/ipamblocks/10-0-0-0-26"), "{line}");
        assert_eq!(body["preconditions"], json!({"uid": "u1"}));
        api.refuse(404, "NotFound");
        assert_eq!(api.store().delete_block("10-0-0-0-26", "u1", None).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_does_not_answer_is_unavailable_after_the_deadline() {
        let result = Api::default().store().list_blocks().await;
        assert_eq!(result.unwrap_err(), StoreError::Unavailable("no answer within 10 s".to_owned()));
    }
}

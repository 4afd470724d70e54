// Read a JSON list of manifests; print a JSON list of what is wrong with each ("" when nothing is).
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const modules = {
  ServiceMonitor: "prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor.js",
  PrometheusRule: "prometheus-operator/monitoring.coreos.com/v1/PrometheusRule.js",
  HTTPRoute: "gateway-api/gateway.networking.k8s.io/v1/HTTPRoute.js",
};

async function errorOf(manifest) {
  const path = resolve(process.argv[2], "node_modules/@kubernetes-models", modules[manifest.kind]);
  const { [manifest.kind]: Model } = await import(pathToFileURL(path));
  try {
    new Model(manifest).validate();
    return "";
  } catch (error) {
    return String(error.message);
  }
}

const manifests = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(await Promise.all(manifests.map(errorOf))));

// Grafana's panel library as one global, for a page without modules.
import * as React from "react";
import { createRoot } from "react-dom/client";
import * as data from "@grafana/data";
import * as ui from "@grafana/ui";

globalThis.grafana = { React, createRoot, data, ui };

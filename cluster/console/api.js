// Asking the node.  The token stays in this tab (sessionStorage) and goes nowhere but to the node that gave the page.

const KEY = "pyrtmp.token";
const TIMEOUT_MS = 8000;

/** The node refused or did not answer; `status` is 0 without an answer. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let token = "";
try {
  token = sessionStorage.getItem(KEY) ?? "";
} catch {
  // a browser that keeps nothing: the token lasts until the page is left
}

export const hasToken = () => token !== "";

export function setToken(value) {
  token = value;
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // as above
  }
}

/** The node's answer to a request; throws ApiError.  Addresses are relative: a proxy may have put all under a path. */
export async function ask(path, method = "GET") {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (method === "POST") headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(`../${path}`, location.href), { method, headers, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  } catch {
    throw new ApiError(0, "The node does not answer.");
  }
  let answer = null;
  try {
    answer = await response.json();
  } catch {
    // told below
  }
  if (!response.ok || answer === null) {
    const problems = Array.isArray(answer?.problems) ? `: ${answer.problems.join("; ")}` : "";
    throw new ApiError(response.status, `${answer?.error ?? `HTTP ${response.status}`}${problems}`);
  }
  return answer;
}

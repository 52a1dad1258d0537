// What a job's Node script may say to Cronium: `const cronium = require('cronium')`.
//
// It runs inside a job's place, with the script's own Node: nothing but `fs`, no network. What it answers from lies in
// $CRONIUM_DIR; what it says goes as one JSON line, by one write, to $CRONIUM_EVENTS, which can be written but not read. Variables
// that the job has set are kept in $CRONIUM_DIR/variables.set (the same lines), so that all helpers of the job see them.
'use strict';

const fs = require('fs');

/** The job's input data. */
function input() {
  return read('input.json');
}

/** What this run is: job id, event id, name, attempt. */
function event() {
  return read('event.json');
}

/** Makes `data` the job's output; the last one counts. */
function output(data) {
  say({ type: 'output', data: data === undefined ? null : data });
}

/** The variable's value, as this job has set it or as it was at the job's start; undefined where there is none. */
function getVariable(key) {
  const variables = read('variables.json');
  let found = Object.prototype.hasOwnProperty.call(variables, key) ? variables[key] : undefined;
  for (const line of setLines()) {
    const said = JSON.parse(line);
    if (said.key === String(key)) found = said.value;
  }
  return found;
}

/** Sets a variable, for this job and for those after it. */
function setVariable(key, value) {
  const line = say({ type: 'variable', key: String(key), value: value === undefined ? null : value });
  append(path('variables.set'), line);
}

/** Sets the job's condition, which decides what runs after it. */
function setCondition(value) {
  say({ type: 'condition', value: Boolean(value) });
}

/** Tells how far the job is: 0 to 100, and a word to it if you like. */
function progress(percentage, message) {
  const number = Number(percentage);
  if (Number.isNaN(number)) throw new TypeError(`progress: ${percentage} is not a number`);
  const said = { type: 'progress', percentage: Math.min(100, Math.max(0, number)) };
  if (message !== undefined && message !== null) said.message = String(message);
  say(said);
}

function variable(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: cronium works inside a Cronium job only`);
  return value;
}

function path(name) {
  return `${variable('CRONIUM_DIR')}/${name}`;
}

function read(name) {
  return JSON.parse(fs.readFileSync(path(name), 'utf8'));
}

function setLines() {
  try {
    return fs.readFileSync(path('variables.set'), 'utf8').split('\n').filter(Boolean);
  } catch (error) {
    if (error.code === 'ENOENT') return []; // nothing was set yet
    throw error;
  }
}

function say(said) {
  const line = Buffer.from(`${JSON.stringify(said)}\n`);
  append(variable('CRONIUM_EVENTS'), line);
  return line;
}

function append(file, line) {
  const descriptor = fs.openSync(file, 'a', 0o600);
  try {
    fs.writeSync(descriptor, line);
  } finally {
    fs.closeSync(descriptor);
  }
}

module.exports = {
  input,
  output,
  getVariable,
  setVariable,
  setCondition,
  event,
  progress,
  get_variable: getVariable,
  set_variable: setVariable,
  set_condition: setCondition,
};

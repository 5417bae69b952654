// The inspector's page. It knows nothing about masks: Python sends images (a case and transparent layers, PNG), names,
// colours and sentences; the page stacks and zooms them and sends back what was drawn. Text only ever becomes text.

const ROW = 72, THUMBS = 300                         // pixels of a row of the list; thumbnails kept
const ANY = '*'                                      // an image is asked for, and Python says which
const SIGN = { undecided: '·', accepted: '✓', rejected: '✕', corrected: '✎' }
const KEYS = [['n → ↓', 'next image'], ['p ← ↑', 'previous image'], ['a · r · u', 'accept · reject · undo'],
  ['l, Enter', 'make the correction the label'], ['y', 'yes, nothing to see here'], ['x v b e m', 'tools'],
  ['1 – 9', 'layers'], ['h', 'what the U-Net asked SAM'], ['f', 'fill or outline'], ['k', 'curtain'],
  [', .', 'earlier, later snapshot'], ['PgUp PgDn', 'slice'], ['[ ]', 'brush size'],
  ['+ − 0', 'zoom; also Ctrl + wheel'],
  ['Shift + arrows', 'crosshair (with Alt: one pixel); with the tool move: the image'],
  ['Enter', 'at the crosshair: corner of a box, positive point, or brush dab'], ['Backspace', 'negative point'],
  ['Esc', 'no crosshair'], ['z · c', 'take back · clear'], ['/', 'search']]

const clamp = (v, low = 0, high = 1) => Math.min(high, Math.max(low, v))
const fixed = (v, digits) => v === null || v === undefined ? '–' : v.toFixed(digits)

function h(tag, props = {}, ...kids) {               // an element with properties, listeners and children
  const e = document.createElement(tag)
  for (const [k, v] of Object.entries(props)) {
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v)
    else if (k === 'style') e.style.cssText = v
    else if (k in e) e[k] = v
    else e.setAttribute(k, v)
  }
  e.append(...kids)
  return e
}

function svg(tag, attributes = {}, ...kids) {
  const e = document.createElementNS('http://www.w3.org/2000/svg', tag)
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v)
  e.append(...kids)
  return e
}

const select = (label, options, onchange) =>
  h('select', { 'aria-label': label, title: label, onchange }, ...options.map(([v, t]) => h('option', { value: v }, t)))
const button = (text, key, title, onclick, more = {}) =>
  h('button', { type: 'button', title: `${title} (${key})`, 'aria-label': title, onclick, ...more }, text,
    h('kbd', { 'aria-hidden': 'true' }, key))
const range = (label, min, max, step, value, oninput) =>
  h('input', { type: 'range', min, max, step, value, 'aria-label': label, title: label, oninput })

// ---- the plot of one case during training: [text, colour, dash, values]; a value that is unknown breaks the line
function plot(steps, now, rows) {
  const n = steps.length, X = i => 26 + 220 * i / (n - 1), Y = v => 92 - 84 * v
  const text = (x, y, t, more = {}) => svg('text', { x, y, 'font-size': 10, fill: 'currentColor', ...more }, t)
  const stroke = (d, stroke, more = {}) => svg('path', { d, stroke, fill: 'none', ...more })
  const joined = (values, i) => i && values[i - 1] !== null
  const path = values =>
    values.map((v, i) => v === null ? '' : `${joined(values, i) ? 'L' : 'M'}${X(i)} ${Y(v)}`).join('')
  const pen = dash => ({ 'stroke-width': 2, 'stroke-dasharray': dash })
  const lines = rows.map(([, colour, dash, values]) => stroke(path(values), colour, pen(dash)))
  const chart = svg('svg', { viewBox: '0 0 256 108', role: 'img', 'aria-label': 'Dice at each snapshot' },
    text(0, 12, '1'), text(0, 96, '0'), text(26, 106, `step ${steps[0]}`),
    text(246, 106, `${steps[n - 1]}`, { 'text-anchor': 'end' }),
    stroke('M26 8V92H246', 'currentColor', { opacity: .4 }),
    stroke(`M${X(now)} 8V92`, 'currentColor', { opacity: .5 }), ...lines)
  const legend = rows.map(([words, colour, dash, values]) => h('div', {},
    svg('svg', { viewBox: '0 0 24 8', width: 24, height: 8 }, stroke('M0 4H24', colour, pen(dash))),
    ` ${words} `, h('b', {}, values[now] === null ? 'both empty' : values[now].toFixed(2))))
  return [chart, ...legend]
}

function render({ model, el, app = false }) {
  const ME = Math.random().toString(36).slice(2)
  const S = { ids: [], values: [], status: {}, case: null, want: null, image: null, bitmaps: {}, show: {}, tool: 'box',
    about: { branches: [], classes: [], maps: [], names: {}, palette: {}, numbers: {}, meaning: {}, words: {} },
    radius: .03, cls: 1, zoom: 0, x: 0, y: 0, curtain: { on: false, at: .5 }, cursor: null, corner: null, drag: null,
    hover: null, space: false, asking: true, confirm: null, thumbs: new Map(), asked: new Set() }
  const name = n => S.about.names[n] || n, isMap = n => S.about.maps.includes(n)
  const colour = n => S.about.palette[n] || S.about.palette.asked

  // ---- talking to Python: every request carries a number and is answered once
  const waiting = new Map()
  let seq = 0, chain = Promise.resolve(), alive = true
  function send(kind, more = {}) {
    if (kind === 'ready') { model.send({ kind, seq: ++seq, view: ME, ...more }); return }   // nobody waits for that
    const n = ++seq, patience = kind === 'list' ? 300000 : 60000        // Dice reads every mask
    waiting.set(n, setTimeout(() => { waiting.delete(n); busy(); say(lost, 'error') }, patience))
    busy()
    try { model.send({ kind, seq: n, view: ME, layers: visible(), ...more }) }
    catch (e) { say(`${lost} (${e.message})`, 'error') }
  }
  const lost = app ? 'No answer. If the app was stopped, start it again: what you did is on the disk.'
    : 'The kernel does not answer. If it was restarted, run the cell again: what you did is on the disk.'
  const busy = () => { root.dataset.busy = waiting.size ? 1 : 0; if (!waiting.size) S.want = null }
  const say = (text, level = 'info') => { message.textContent = text; message.dataset.level = level }
  const bitmap = (buffer, type = 'image/png') => createImageBitmap(new Blob([buffer], { type }))
  const visible = () =>
    Object.fromEntries(Object.entries(S.show).filter(([, v]) => v.on).map(([k, v]) => [k, v.fill ? 'fill' : 'contour']))

  async function receive(m, buffers) {
    if (m.about) setUp(m.about)
    if (m.list) {
      S.ids = m.list.ids; S.values = m.list.values
      m.list.ids.forEach((id, i) => { S.status[id] = m.list.status[i] })
      fillList(true)
    }
    Object.assign(S.status, m.status || {})
    if (m.case) await showCase(m.case, buffers)
    if (m.edit && S.case && m.edit.id === S.case.id) { Object.assign(S.case, m.edit); layersPanel() }
    for (const l of m.layers || []) {
      if (S.case?.id !== l.id || S.case.step !== l.step) continue
      S.bitmaps[l.name] = { style: l.style, picture: await bitmap(buffers[l.at]) }
    }
    for (const t of m.thumbs || []) keepThumb(t.id, buffers[t.at])
    if (m.thumbs || m.status || m.case) fillList()
    if (m.message) say(...m.message)
    else if (m.edit || m.list) say('')
    S.confirm = m.confirm || (m.edit || m.case ? null : S.confirm)
    if (m.decided) intro.hidden = true
    status(); draw()
    if (m.view !== ME) return
    clearTimeout(waiting.get(m.seq)); waiting.delete(m.seq); busy()
    if (S.want === ANY && (m.case || m.list)) S.want = null
    const stays = m.decided === S.case?.id && (S.want ?? m.decided) === m.decided
    if (m.decided && stays && onward.checked && m.advance) go(1, m.decided)
  }
  model.on('msg:custom', (m, buffers) => {
    const failed = e => say(`This cannot be shown: ${e.message}`, 'error')
    if (alive) chain = chain.then(() => receive(m, buffers)).catch(failed)
  })
  function keepThumb(id, bytes) {
    S.thumbs.set(id, URL.createObjectURL(new Blob([bytes], { type: 'image/jpeg' })))
    if (S.thumbs.size <= THUMBS) return
    const [old, url] = S.thumbs.entries().next().value
    URL.revokeObjectURL(url); S.thumbs.delete(old)
  }

  // ---- the parts of the page: the list
  const list = first => {                            // a new order opens its first case
    if (sort.value === 'dice') say('Reading the true masks, once …')
    if (sort.value === 'diverse') say('Reading all images, once …')
    const which = { sort: sort.value, status: filter.value, search: search.value, reverse: reverse.checked }
    S.want = ANY
    send('list', { ...which, first: !!first })
  }
  const sort = select('order', [], () => list(true))
  const reverse = h('input', { type: 'checkbox', onchange: () => list(true) })
  const filter = select('show which', [['all', 'all']], () => list())
  const search = h('input', { type: 'search', placeholder: 'search', 'aria-label': 'search by name',
    oninput: () => { clearTimeout(search.timer); search.timer = setTimeout(list, 250) } })
  const count = h('span', { class: 'count' }), rows = h('div', { class: 'rows' })
  const scroller = h('div', { class: 'list', role: 'listbox', 'aria-label': 'images', tabIndex: 0,
    onscroll: () => fillList() }, rows)

  // ---- the image and its tools
  const canvas = h('canvas', { tabIndex: 0, role: 'img', 'aria-label': 'image with layers',
    'data-jp-suppress-context-menu': '' })
  const g = canvas.getContext('2d')
  const tools = Object.fromEntries([
    ['box', 'box', 'x', 'drag a box around the object, or click two corners: SAM draws it'],
    ['point', 'points', 'v', 'left click: positive point, right click: negative point'],
    ['brush', 'brush', 'b', 'paint the class'],
    ['eraser', 'eraser', 'e', 'paint background'], ['move', 'move', 'm', 'drag the image, or Shift + arrows'],
  ].map(([tool, text, key, title]) => [tool, button(text, key, title, () => setTool(tool))]))
  const classes = select('class to draw', [], () => { S.cls = +classes.value })
  const radius = range('brush size', .005, .12, .005, S.radius, () => { S.radius = +radius.value; draw() })
  const begin = select('begin the correction with one of the masks', [], () => {
    if (begin.value) edit('start', { step: S.case.step, name: begin.value })
    begin.value = ''
  })
  const use = () => edit('use', { note: note.value, confirmed: S.confirm === S.case?.id })
  const nothing = () => edit('nothing', { note: note.value })
  const sized = h('label', { class: 'size' }, 'size ', radius)
  const toolbar = h('div', { class: 'bar' }, ...Object.values(tools), classes, sized, begin,
    button('take back', 'z', 'take the last box, point or stroke back', () => edit('undo_change')),
    button('clear', 'c', 'drop the correction', () => edit('clear')),
    button('use as label', 'l', 'make the correction the label of this image', use),
    button('nothing here', 'y', 'there is nothing to see in this image: an empty mask is its label', nothing))
  const visit = (id, more = {}) => { S.want = id; send('go', { id, ...more }) }
  const wanted = () => S.want && S.want !== ANY ? S.want : S.case.id
  function early() {                                 // what is shown is not what was asked for
    if (!S.want || S.want === S.case.id) return false
    S.late = 'The next image was still coming, so that key or click did nothing.'
    say('The next image is still coming; nothing was decided.', 'warn')
    return true
  }
  const slice = range('slice', 0, 0, 1, 0, () => visit(S.case.slices[+slice.value])), sliceText = h('span')
  const slices = h('label', { class: 'slider' }, 'slice ', slice, sliceText)
  const time = range('snapshot', 0, 0, 1, 0, () => visit(wanted(), { step: +time.value }))
  const timeText = h('span')
  const times = h('label', { class: 'slider' }, 'time ', time, timeText)
  const introText = h('div'), intro = h('div', { class: 'intro', role: 'note', hidden: true }, introText,
    h('button', { type: 'button', 'aria-label': 'close the introduction',
      onclick: () => { intro.hidden = true; canvas.focus() } }, '×'))

  // ---- the right side
  const layers = h('div', { class: 'layers' }), scores = h('div', { class: 'scores' })
  const curve = h('div', { class: 'curve' })
  const curtain = h('input', { type: 'checkbox', onchange: () => { S.curtain.on = curtain.checked; sides() } })
  const left = select('left of the curtain', [], () => sides())
  const right = select('right of the curtain', [], () => sides())
  const curtainAt = range('place of the curtain', 0, 1, .01, .5, () => { S.curtain.at = +curtainAt.value; draw() })
  const note = h('textarea', { rows: 2, placeholder: 'note', 'aria-label': 'note',
    onchange: () => S.case && send('note', { id: S.case.id, text: note.value }) })
  const onward = h('input', { type: 'checkbox' }), verdict = h('strong')
  const decide = to => {
    if (!S.case || early()) return
    const id = S.case.id
    send('decide', { id, to, note: note.value })
    if (onward.checked) go(1, id)
  }
  const accept = button('accept', 'a', 'note that this pseudo-label is good; it does not become a label: l does that',
    () => decide('accepted'))
  const undo = () => { S.want = ANY; send('undo') }
  const help = h('details', {}, h('summary', {}, 'keys'),
    h('div', { class: 'keys' }, ...KEYS.map(([k, t]) => h('div', {}, h('kbd', {}, k), ' ' + t))))
  const curtainBar = h('div', { class: 'bar' }, h('label', {}, curtain, ' curtain'), curtainAt, left, right)
  const message = h('div', { class: 'message', role: 'status', 'aria-live': 'polite' }), title = h('h3')
  const head = h('div', { class: 'bar head' }, title,
    button('zoom', '+', 'zoom in; also Ctrl + wheel', () => zoom(1.25)),
    button('zoom', '−', 'zoom out; also Ctrl + wheel', () => zoom(.8)),
    button('fit', '0', 'the whole image', () => { fit(); draw() }))
  const root = h('div', { class: 'scsam', 'data-lm-suppress-shortcuts': 'true', 'data-busy': 1 },
    h('div', { class: 'bar' }, h('label', {}, 'sort ', sort), h('label', {}, reverse, ' reversed'),
      h('label', {}, 'show ', filter), search, count),
    h('div', { class: 'main' }, scroller,
      h('div', { class: 'stage' }, intro, head, toolbar, canvas, slices, times, message),
      h('div', { class: 'side' },
        h('div', { class: 'verdict' }, verdict, h('div', { class: 'bar' }, accept,
          button('reject', 'r', 'leave this image out of training', () => decide('rejected')),
          button('undo', 'u', 'take the last decision back', undo)),
        h('label', {}, onward, ' next image after a decision'), note), layers, curtainBar, scores, curve, help)))
  el.append(root)

  // ---- what is shown
  function setUp(about) {
    const options = (box, pairs) => box.replaceChildren(...pairs.map(([v, t]) => h('option', { value: v }, t)))
    S.about = about
    for (const [k, v] of Object.entries(about.palette)) root.style.setProperty(`--${k}`, v)
    const own = [...about.branches, 'edit']
    const look = n => ({ on: own.includes(n), fill: false, alpha: isMap(n) ? .7 : 1 })
    for (const n of Object.keys(about.numbers)) S.show[n] ??= look(n)
    options(sort, about.orders); options(filter, [['all', 'all'], ...Object.entries(about.words)])
    options(classes, about.classes.slice(1).map((n, i) => [i + 1, n]))
    classes.hidden = about.classes.length < 3
    accept.hidden = curtainBar.hidden = !about.branches.length
    onward.checked = !about.branches.length
    introText.textContent = about.intro; intro.hidden = Object.values(S.status).some(s => s !== 'undecided')
    if (app) document.title = about.title
    root.dataset.ready = 1
    if (app) canvas.focus({ preventScroll: true })
  }
  function setTool(t) {
    S.tool = t; S.corner = null
    for (const [k, b] of Object.entries(tools)) b.setAttribute('aria-pressed', k === t)
    canvas.style.cursor = t === 'move' ? 'grab' : 'crosshair'
    draw()
  }

  function layerRow(n) {                             // its number is the same in every case
    const v = S.show[n] ??= { on: false, fill: false, alpha: 1 }, many = S.about.classes.length > 2
    const swatch = h('span', { class: isMap(n) ? 'swatch map' : 'swatch', hidden: many && !isMap(n),
      style: isMap(n) ? '' : `background:${colour(n)}` })
    const shape = h('button', { type: 'button', style: isMap(n) ? 'visibility:hidden' : '',
      'aria-label': `${name(n)}: ${v.fill ? 'filled' : 'outlined'}`,
      onclick: () => { v.fill = !v.fill; refresh(); layersPanel() } }, v.fill ? 'fill' : 'line')
    const box = h('input', { type: 'checkbox', checked: v.on, onchange: e => toggle(n, e.target.checked) })
    const dashed = many && n === 'sam' && !v.fill ? ' (dashed)' : ''
    const number = h('kbd', {}, S.about.numbers[n] ?? '')
    return h('div', { class: 'layer' }, h('label', {}, box, swatch, ` ${name(n)}${dashed} `, number), shape,
      range(`opacity of ${name(n)}`, 0, 1, .05, v.alpha, e => { v.alpha = +e.target.value; draw() }))
  }
  function layersPanel() {
    const order = S.case.layers, masks = order.filter(n => !isMap(n)), many = S.about.classes.length > 2
    const legend = S.about.classes.slice(1).map((n, i) =>     // with several classes a colour says the class
      h('span', {}, h('span', { class: 'swatch', style: `background:${S.about.colours[i]}` }), ' ' + n))
    const asked = h('input', { type: 'checkbox', checked: S.asking,
      onchange: e => { S.asking = e.target.checked; draw() } })
    const prompts = h('div', { class: 'layer' }, h('label', {}, asked, h('span', {}, 'what SAM was asked: ',
      h('span', { class: 'yes', title: 'positive point' }, '●'), ' ',
      h('span', { class: 'no', title: 'negative point' }, '✕')), h('kbd', {}, 'h')))
    layers.replaceChildren(h('div', { class: 'bar', hidden: !many }, ...legend), ...order.map(layerRow),
      ...(S.case.points.length || S.case.boxes.length ? [prompts] : []))
    for (const s of [left, right]) {
      const old = s.value
      s.replaceChildren(...order.map(n => h('option', { value: n }, name(n))))
      s.value = order.includes(old) ? old : order[s === right && order.length > 1 ? 1 : 0] || ''
    }
    const from = masks.filter(n => n !== 'edit').map(n => h('option', { value: n }, name(n)))
    begin.hidden = !from.length
    begin.replaceChildren(h('option', { value: '' }, 'begin with …'), ...from)
  }
  function sides() {                                 // both sides are seen; a layer that it no longer shows is not
    const now = [left.value, right.value], on = (n, v) => { if (S.show[n]) S.show[n].on = v }
    if (S.curtain.on) {
      for (const n of S.curtain.of || []) if (!now.includes(n)) on(n, false)
      now.forEach(n => on(n, true))
    }
    S.curtain.of = S.curtain.on ? now : null
    refresh(); layersPanel()
  }
  function toggle(n, on = !S.show[n].on) { S.show[n].on = on; refresh(); layersPanel() }
  function refresh() {                               // ask for what is visible and not there in this style
    const styles = visible(), missing = S.case.layers.filter(n => styles[n] && S.bitmaps[n]?.style !== styles[n])
    if (missing.length) send('layers', { id: S.case.id, step: S.case.step, names: missing })
    else draw()
  }

  async function showCase(c, buffers) {
    const fresh = !S.case || S.case.id !== c.id, i = S.ids.indexOf(c.id), row = i * ROW
    S.image = await bitmap(buffers[c.image]); S.bitmaps = {}; S.case = c
    if (fresh) { S.zoom = 0; S.corner = null; say(S.late || '', S.late ? 'warn' : 'info'); note.value = c.note }
    if (fresh) S.late = null
    layersPanel()
    title.textContent = c.id; root.dataset.case = c.id; root.dataset.step = c.step
    slices.hidden = c.slices.length < 2; slice.max = c.slices.length - 1; slice.value = c.slices.indexOf(c.id)
    sliceText.textContent = ` ${+slice.value + 1} of ${c.slices.length}`
    times.hidden = c.steps.length < 2; time.max = c.steps.length - 1; time.value = c.step
    timeText.textContent = c.steps.length ? ` step ${c.steps[c.step]}` : ''
    scores.replaceChildren(...c.scores.map(([words, meaning, v]) =>
      h('div', { title: meaning }, h('span', {}, words), h('b', {}, fixed(v, 3)))))
    const { agreement, truth } = c.curve
    const both = agreement.length ? [['agreement of the two', 'currentColor', '', agreement]] : []
    const against = Object.entries(truth)
      .map(([b, v], k) => [`${name(b)} with the truth`, colour(b), k ? '2 3' : '7 3', v])
    curve.replaceChildren(...(c.steps.length > 1 ? plot(c.steps, c.step, [...both, ...against]) : []))
    const out = row < scroller.scrollTop || row + ROW > scroller.scrollTop + scroller.clientHeight
    if (fresh && i >= 0 && out) scroller.scrollTop = row - scroller.clientHeight / 3
    if (fresh) { S.ready = null; if (app) ready() }
  }
  function status() {
    if (!S.case) return
    const s = S.status[S.case.id] || 'undecided', n = Object.values(S.status).filter(v => v !== 'undecided').length
    verdict.textContent = `${SIGN[s]} ${S.about.words[s] || s}`; root.dataset.status = s
    count.textContent = `${S.ids.indexOf(S.case.id) + 1} of ${S.ids.length}, ${n} decided`
  }
  function listRow(id, i) {
    const s = S.status[id] || 'undecided', url = S.thumbs.get(id), v = S.values[i]
    const shown = v === null ? (sort.value === 'disagreement' ? S.about.unknown : '')
      : sort.value === 'size' ? `${(100 * v).toFixed(1)} %` : v.toFixed(2)
    return h('div', { class: 'row', role: 'option', id: `${ME}-${i}`, 'aria-selected': id === S.case?.id,
      style: `top:${i * ROW}px`, 'data-status': s,
      onclick: () => { visit(id); canvas.focus({ preventScroll: true }) } },
    h('div', { class: 'thumb' }, ...(url ? [h('img', { src: url, alt: '' })] : [])),
    h('div', {}, h('div', { class: 'id', title: id }, id),
      h('div', { class: 'state' }, `${SIGN[s]} ${s === 'undecided' ? '' : S.about.words[s] || s} ${shown}`)))
  }
  function fillList(anew) {                          // only the rows that can be seen exist
    if (anew) {
      rows.style.height = `${S.ids.length * ROW}px`
      scroller.scrollTop = Math.max(0, S.ids.indexOf(S.case?.id)) * ROW
    }
    const from = Math.max(0, Math.floor(scroller.scrollTop / ROW) - 1)
    const seen = S.ids.slice(from, from + Math.ceil((scroller.clientHeight || 600) / ROW) + 3)
    rows.replaceChildren(...seen.map((id, k) => listRow(id, from + k)))
    const on = rows.querySelector('[aria-selected=true]')
    if (on) scroller.setAttribute('aria-activedescendant', on.id)
    else scroller.removeAttribute('aria-activedescendant')
    const ids = seen.filter(id => !S.thumbs.has(id) && !S.asked.has(id))
    if (!ids.length) return
    ids.forEach(id => S.asked.add(id))
    setTimeout(() => { send('thumbs', { ids }); ids.forEach(id => S.asked.delete(id)) }, 60)
  }

  // ---- the canvas: where things are
  const size = () => [S.image?.width || 1, S.image?.height || 1], seen = () => [canvas.clientWidth, canvas.clientHeight]
  function fit() {
    const [w, hh] = size(), [W, H] = seen()
    S.zoom = Math.min(W / w, H / hh); S.x = (W - w * S.zoom) / 2; S.y = (H - hh * S.zoom) / 2
  }
  function zoom(by, at = seen().map(v => v / 2)) {
    const z = clamp(S.zoom * by, .2, 40)
    S.x = at[0] - (at[0] - S.x) * z / S.zoom; S.y = at[1] - (at[1] - S.y) * z / S.zoom; S.zoom = z
    draw()
  }
  function follow() {                                // keep the crosshair in sight
    const [w, hh] = size(), [W, H] = seen(), into = (v, max) => Math.max(0, 16 - v) - Math.max(0, v - max + 16)
    S.x += into(S.x + S.cursor[0] * w * S.zoom, W); S.y += into(S.y + S.cursor[1] * hh * S.zoom, H)
  }
  const at = e => {                                  // of a mouse event, in fractions of the image
    const b = canvas.getBoundingClientRect(), k = canvas.clientWidth / b.width, [w, hh] = size()
    return [((e.clientX - b.left) * k - S.x) / S.zoom / w, ((e.clientY - b.top) * k - S.y) / S.zoom / hh]
  }
  const inside = p => p.every(v => v >= 0 && v <= 1), onto = p => p.map(v => clamp(v))

  // ---- the canvas: painting
  function path(...points) {                         // a line through points; null lifts the pen
    let down = false
    g.beginPath()
    for (const p of points) { if (p) down ? g.lineTo(...p) : g.moveTo(...p); down = !!p }
    g.stroke()
  }
  let due = false
  const draw = () => { if (!due) { due = true; requestAnimationFrame(() => { due = false; paint() }) } }
  function paint() {
    const r = window.devicePixelRatio || 1, [W, H] = seen(), wide = Math.round(W * r), high = Math.round(H * r)
    if (!W || !S.image) return
    if (canvas.width !== wide || canvas.height !== high) { canvas.width = wide; canvas.height = high; S.zoom = 0 }
    if (!S.zoom) fit()
    const z = S.zoom, [w, hh] = size()
    g.setTransform(r, 0, 0, r, 0, 0); g.clearRect(0, 0, W, H)
    g.setTransform(r * z, 0, 0, r * z, r * S.x, r * S.y); g.imageSmoothingEnabled = z < 3
    g.drawImage(S.image, 0, 0)
    paintLayers(w, hh); paintPrompts(w, hh, 1 / z); paintTools(w, hh, 1 / z)
    root.dataset.painted = S.case.id
  }
  function paintLayers(w, hh) {
    const halves = S.curtain.on && left.value !== right.value ? [left.value, right.value] : []
    for (const n of [...S.case.layers].sort((a, b) => isMap(b) - isMap(a))) {
      const side = halves.indexOf(n)
      if (!S.show[n].on || !S.bitmaps[n]) continue
      g.save(); g.globalAlpha = S.show[n].alpha
      if (side >= 0) {
        g.beginPath(); g.rect(side ? S.curtain.at * w : 0, 0, side ? w : S.curtain.at * w, hh); g.clip()
      }
      g.drawImage(S.bitmaps[n].picture, 0, 0, w, hh); g.restore()
    }
  }
  function paintPrompts(w, hh, px) {                 // px: a pixel of the screen
    const cross = (x, y, q) => path([x - q, y - q], [x + q, y + q], null, [x - q, y + q], [x + q, y - q])
    const dot = (x, y, label, big) => {
      const q = (big ? 7 : 4.5) * px
      if (label !== 1) {
        for (const [width, ink] of [[big ? 6 : 4, '#fff'], [big ? 3 : 2, colour('negative')]]) {
          g.lineWidth = width * px; g.strokeStyle = ink; cross(x * w, y * hh, q)
        }
        return
      }
      g.lineWidth = (big ? 2.5 : 1.5) * px; g.fillStyle = colour('positive'); g.strokeStyle = '#fff'
      g.beginPath(); g.arc(x * w, y * hh, q, 0, 7); g.fill(); g.stroke()
    }
    const box = (b, ink) => {
      g.lineWidth = 2 * px; g.strokeStyle = ink
      g.strokeRect(b[0] * w, b[1] * hh, (b[2] - b[0]) * w, (b[3] - b[1]) * hh)
    }
    if (S.asking) {
      for (const b of S.case.boxes) box(b, colour('asked'))
      for (const [x, y, label] of S.case.points) if (label >= 0) dot(x, y, label)
    }
    for (const p of S.case.prompts) p.xy ? dot(...p.xy, p.label, true) : box(p.box, colour('edit'))
    const tip = S.drag?.to || S.cursor || S.hover, from = S.drag?.kind === 'box' ? S.drag.from : S.corner
    if (S.tool === 'box' && from && tip && (S.drag?.to || S.corner)) box([...from, ...onto(tip)], colour('edit'))
  }
  function paintTools(w, hh, px) {
    const d = S.drag, tip = S.cursor || S.hover, c = S.cursor
    if (d?.kind === 'stroke') {
      g.strokeStyle = S.tool === 'eraser' ? '#ffffffa0' : `${colour('edit')}a0`
      g.lineWidth = 2 * S.radius * w; g.lineCap = g.lineJoin = 'round'
      const at = d.points.map(([x, y]) => [x * w, y * hh])
      path(...at, ...(at.length < 2 ? [[at[0][0] + .01, at[0][1]]] : []))
    }
    if (S.curtain.on) { g.fillStyle = '#fff'; g.fillRect(S.curtain.at * w - px, 0, 2 * px, hh) }
    for (const [width, ink] of [[3, '#000'], [1, '#fff']]) {
      g.lineWidth = width * px; g.strokeStyle = ink
      if (c) {
        const [x, y, q] = [c[0] * w, c[1] * hh, 12 * px]
        path([x - q, y], [x + q, y], null, [x, y - q], [x, y + q])
      }
      if (!tip || !brushing()) continue              // the size of the brush, under the crosshair or the mouse
      g.beginPath(); g.arc(tip[0] * w, tip[1] * hh, S.radius * w, 0, 7); g.stroke()
    }
  }

  // ---- the canvas: drawing on it
  const brushing = () => S.tool === 'brush' || S.tool === 'eraser'
  const edit = (kind, more = {}) => {
    if (!S.case || early()) return
    S.show.edit.on = true
    send(kind, { id: S.case.id, ...more })
  }
  const point = (p, label) => { if (inside(p)) edit('prompt', { xy: p, label, class: S.cls }) }
  const stroke = points => edit('stroke', { points, radius: S.radius, class: S.tool === 'eraser' ? 0 : S.cls })
  function corner(p) {                               // the first one waits for the second
    if (!S.corner) { S.corner = onto(p); say('Now the opposite corner of the box.') }
    else { edit('prompt', { box: [...S.corner, ...onto(p)], class: S.cls }); S.corner = null }
    draw()
  }
  function ready() {                                 // SAM encodes the image before it is asked, and then the next one
    if (!S.case || brushing() || S.ready === S.case.id) return
    S.ready = S.case.id
    const next = app && S.ids[S.ids.indexOf(S.case.id) + 1]
    send('ready', { ids: next ? [S.case.id, next] : [S.case.id] })
  }
  canvas.addEventListener('contextmenu', e => { e.preventDefault(); e.stopPropagation() })
  canvas.addEventListener('pointerenter', ready); canvas.addEventListener('focus', ready)
  canvas.addEventListener('pointerdown', e => {
    if (!S.case) return
    e.preventDefault(); canvas.focus({ preventScroll: true }); canvas.setPointerCapture(e.pointerId); S.cursor = null
    const p = at(e), screen = [e.clientX, e.clientY], near = Math.abs(p[0] - S.curtain.at) * size()[0] * S.zoom < 6
    if (S.curtain.on && e.button === 0 && near) S.drag = { kind: 'curtain' }
    else if (S.tool === 'move' || S.space || e.button === 1) {
      S.drag = { kind: 'move', x: e.clientX - S.x, y: e.clientY - S.y }
    }
    else if (e.button === 2) S.drag = { kind: 'negative', from: p }
    else if (brushing()) S.drag = { kind: 'stroke', points: [p] }
    else S.drag = { kind: S.tool, from: S.tool === 'box' ? onto(p) : p, screen }
    draw()
  })
  canvas.addEventListener('pointermove', e => {
    const d = S.drag, p = S.hover = at(e)
    if (!d) { if (brushing() || S.corner) draw(); return }
    if (d.kind === 'curtain') { S.curtain.at = clamp(p[0]); curtainAt.value = S.curtain.at }
    if (d.kind === 'move') { S.x = e.clientX - d.x; S.y = e.clientY - d.y }
    if (d.kind === 'stroke') d.points.push(p)
    if (d.kind === 'box') d.to = Math.hypot(e.clientX - d.screen[0], e.clientY - d.screen[1]) > 5 ? onto(p) : null
    draw()
  })
  canvas.addEventListener('pointerup', () => {
    const d = S.drag; S.drag = null
    if (d?.kind === 'negative') point(d.from, 0)
    if (d?.kind === 'stroke') stroke(d.points)
    if (d?.kind === 'point') point(d.from, 1)
    if (d?.kind === 'box' && !d.to) corner(d.from)
    if (d?.kind === 'box' && d.to) { S.corner = null; edit('prompt', { box: [...d.from, ...d.to], class: S.cls }) }
    draw()
  })
  canvas.addEventListener('pointerleave', () => { S.hover = null; draw() })
  canvas.addEventListener('pointercancel', () => { S.drag = null; draw() })
  canvas.addEventListener('wheel', e => {
    if (!e.ctrlKey && !e.metaKey) return
    const b = canvas.getBoundingClientRect()
    e.preventDefault(); zoom(Math.exp(-e.deltaY / 300), [e.clientX - b.left, e.clientY - b.top])
  }, { passive: false })

  // ---- the keyboard
  const go = (by, start) => {                        // from where a quick hand already is, not from what is painted
    if (!S.case) return
    const from = start || wanted(), i = S.ids.indexOf(from), id = S.ids[i + by]
    if (i < 0 || !id) send('go', { id: from, by })
    else visit(id)
  }
  const move = (input, by) => {
    const v = +input.value + by
    if (input.parentElement.hidden || v < 0 || v > +input.max) return
    input.value = v; input.dispatchEvent(new Event('input'))
  }
  const thicker = by => { radius.value = S.radius + by; S.radius = +radius.value; draw() }
  function fillAll() {
    const on = !Object.values(S.show)[0]?.fill
    for (const v of Object.values(S.show)) v.fill = on
    refresh(); layersPanel()
  }
  function enter() {
    if (!S.cursor) use()
    else if (brushing()) stroke([S.cursor])
    else if (S.tool === 'box') corner(S.cursor)
    else if (S.tool === 'point') point(S.cursor, 1)
  }
  const negative = () => { if (S.cursor) point(S.cursor, 0) }
  const ACTS = {
    n: () => go(1), ArrowRight: () => go(1), ArrowDown: () => go(1),
    p: () => go(-1), ArrowLeft: () => go(-1), ArrowUp: () => go(-1),
    a: () => { if (!accept.hidden) decide('accepted') }, r: () => decide('rejected'), u: undo,
    l: use, y: nothing,
    z: () => edit('undo_change'), c: () => edit('clear'), x: () => setTool('box'), v: () => setTool('point'),
    b: () => setTool('brush'),
    e: () => setTool('eraser'), m: () => setTool('move'), f: fillAll,
    k: () => { if (!curtainBar.hidden) curtain.click() },
    '/': () => search.focus(), '?': () => { help.open = !help.open },
    h: () => { S.asking = !S.asking; layersPanel(); draw() },
    ',': () => move(time, -1), '.': () => move(time, 1), PageUp: () => move(slice, -1), PageDown: () => move(slice, 1),
    '+': () => zoom(1.25), '=': () => zoom(1.25), '-': () => zoom(.8), 0: () => { fit(); draw() },
    '[': () => thicker(-.005), ']': () => thicker(.005), Enter: enter, Backspace: negative, Delete: negative,
    ' ': () => { S.space = true },
  }
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }
  function crosshair([dx, dy], by) {
    const [w, hh] = size(), [x, y] = S.cursor ?? [.5, .5]
    if (S.tool === 'move') { S.x -= 40 * dx; S.y -= 40 * dy }
    else { S.cursor = onto([x + dx * by / w, y + dy * by / hh]); follow(); canvas.focus(); ready() }
    draw()
  }
  function meant(e) {                                // is this key for the inspector?
    const t = e.target
    if (!t.matches || !S.case || (e.altKey && !e.shiftKey)) return false
    if ((e.ctrlKey || e.metaKey) && e.key !== 'z') return false
    if (t.matches('textarea, input[type=search]')) return false
    if (t.matches('select, input[type=range]') && /^(Arrow|Page|Home|End)/.test(e.key)) return false
    if (t.matches('select') && e.key.length === 1) return false
    return !(t.matches('button, summary, select, input[type=checkbox]') && (e.key === 'Enter' || e.key === ' '))
  }
  function key(e) {
    if (e.key === 'Escape') { S.cursor = S.corner = null; canvas.focus(); draw(); return }
    if (!meant(e)) return
    const arrow = ARROWS[e.key], layer = S.case.layers.find(n => `${S.about.numbers[n]}` === e.key)
    const act = ACTS[e.key] || ACTS[e.key.toLowerCase()]               // Caps Lock changes nothing
    const step = e.altKey ? 1 : Math.max(2, Math.round(size()[0] / 64))
    e.stopPropagation()
    if (e.shiftKey && arrow) crosshair(arrow, step)
    else if (layer) toggle(layer)
    else if (act) act()
    else return
    e.preventDefault()
  }
  const keyboard = app ? document : root             // a page of its own takes every key
  const up = e => { if (e.key === ' ') S.space = false }
  const hover = () => {
    const at = document.activeElement, writing = at?.closest?.('input, textarea, [contenteditable=true], .cm-editor')
    if (!app && !writing && !root.contains(at)) canvas.focus({ preventScroll: true })
  }
  keyboard.addEventListener('keydown', key); keyboard.addEventListener('keyup', up)
  root.addEventListener('pointerenter', hover)

  setTool('box')
  const watch = new ResizeObserver(() => { S.zoom = 0; draw(); fillList() })
  watch.observe(canvas)
  send('hello')
  return () => {
    alive = false; watch.disconnect()
    keyboard.removeEventListener('keydown', key); keyboard.removeEventListener('keyup', up)
    for (const t of waiting.values()) clearTimeout(t)
    for (const u of S.thumbs.values()) URL.revokeObjectURL(u)
  }
}
export default { render }

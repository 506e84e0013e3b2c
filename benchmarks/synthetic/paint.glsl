// Colours a fragment by where it is on an average body at rest, so that paint follows the surface
// and its edges are as sharp as the picture. r: metres, x to the person's left, -y front, z up.
in vec3 normal;
in vec3 place;       // in the world
in vec3 r;
in vec4 marks;       // share of lips, of head, of hand, and the part's number
out vec4 colour;
uniform vec3 skin, lips, iris, hair, jacket, stripe, shirt, tie, eye, elbow, wrist, camera;
uniform int clothes, pattern, haircut;

const int TIE = 0, BLOUSE = 1, SHIRT = 2;
const int LONG = 1, BOB = 2;
const int MOUTH = 1, TONGUE = 2, EYES = 3;
float gloss, edge;

float hash(vec2 p) { return fract(sin(dot(p, vec2(12.9898, 78.233))) * 43758.5453); }
float noise(vec2 p) {
  vec2 i = floor(p), f = fract(p);
  f = f * f * (3.0 - 2.0 * f);
  return mix(mix(hash(i), hash(i + vec2(1, 0)), f.x),
             mix(hash(i + vec2(0, 1)), hash(i + vec2(1, 1)), f.x), f.y);
}
float line(float x, float width) { return 1.0 - smoothstep(width, width + edge, abs(x)); }

vec3 fabric(vec3 base, vec2 at) {
  if (pattern == 1) return mix(base, stripe, 0.9 * line(mod(at.x + 0.012, 0.024) - 0.012, 0.0016));
  if (pattern == 2) {
    vec2 cell = abs(mod(at, 0.036) - 0.018);
    float lines = line(cell.x, 0.0035) * 0.5 + line(cell.y, 0.0035) * 0.5;
    return mix(base, stripe, 0.8 * lines);
  }
  if (pattern == 3) {
    float rib = mod(at.x + abs(mod(at.y, 0.03) - 0.015), 0.02);
    return mix(base, stripe, smoothstep(0.009, 0.011, rib) * 0.75);
  }
  return base;
}

float hairline(float around, float lift) {
  // Height of the lower edge of the hair at an angle from the front (0) to the back (pi).
  float front = eye.z + 0.058 - 0.016 * smoothstep(0.55, 1.05, around) + lift;
  float side = eye.z + (haircut == LONG ? -0.30 : haircut == BOB ? -0.105 : -0.012);
  float back = haircut == LONG ? eye.z - 0.30 : haircut == BOB ? eye.z - 0.11 : eye.z - 0.085;
  float turn = haircut == 0 ? 1.22 : 1.12;
  float low = mix(front, side, smoothstep(turn - 0.10, turn + 0.06, around));
  return mix(low, back, smoothstep(1.75, 2.1, around));
}

vec3 hair_colour(float around) {
  float strands = noise(vec2(around * 42.0, r.z * 9.0)) * 0.6 + noise(vec2(around * 110.0, r.z * 14.0)) * 0.4;
  float crown = smoothstep(0.0, 1.0, noise(vec2(r.x * 90.0, r.y * 22.0)));
  float streak = r.z > eye.z + 0.075 ? mix(strands, crown, 0.7) : strands;
  gloss = 0.30;
  return hair * (0.70 + 0.62 * streak);
}

vec3 head_skin() {
  vec3 base = skin;
  float side = abs(r.x);
  vec2 cheek = vec2(side - 0.040, r.z - eye.z + 0.045);
  base *= mix(vec3(1), vec3(1.04, 0.88, 0.86), exp(-dot(cheek, cheek) / 0.00045) * step(r.y, eye.y + 0.04));
  vec2 socket = vec2(side - eye.x, (r.z - eye.z - 0.004) * 1.5);
  base *= 1.0 - 0.20 * exp(-dot(socket, socket) / 0.00022);
  vec2 nostril = vec2(side - 0.008, r.z - eye.z + 0.047);
  if (r.y < eye.y) base *= 1.0 - 0.45 * exp(-dot(nostril, nostril) / 0.000012);
  bool front = r.y < eye.y + 0.035;
  // Lashes along the lids, and brows above.
  float lid = length(vec2((side - eye.x) * 0.72, r.z - eye.z));
  float upper = step(eye.z - 0.001, r.z);
  if (front) base = mix(base, hair * 0.45, 0.75 * upper * line(lid - 0.0098, 0.0013));
  float along = side - eye.x - 0.001;
  float arch = r.z - eye.z - 0.0215 + 18.0 * max(along - 0.004, 0.0) * max(along - 0.004, 0.0) + 0.06 * max(-along, 0.0);
  float brow = line(arch, 0.0034 - 0.05 * max(along, 0.0)) * line(along, 0.0195);
  if (front) base = mix(base, hair * 0.62, 0.92 * brow);
  float lip = max(smoothstep(0.40, 0.40 + 12.0 * edge, marks.x), smoothstep(0.02, 0.12, marks.w));
  base = mix(base, lips, front ? 0.9 * lip : 0.0);
  gloss = mix(0.10, 0.30, lip);
  return base;
}

vec3 dressed() {
  // Shirt, tie, jacket on the trunk and arms; metres below the neckline in d.
  float side = abs(r.x), d = 0.478 - r.z;
  bool front = r.y < 0.0;
  bool sleeve = side > 0.185;
  vec2 at = r.xz;
  gloss = 0.06;
  if (sleeve) {
    vec3 lower = wrist - elbow;
    float t = dot(vec3(side, r.yz) - elbow, lower) / dot(lower, lower);
    at = vec2(r.y * 0.8 + side * 0.35, t * 0.25);
    if (t > 0.905) { gloss = 0.1; return clothes == BLOUSE ? shirt * 0.97 : shirt * (t < 0.92 ? 0.72 : 1.0); }
    if (clothes != SHIRT && t > 0.84 && line(mod(t, 0.02) - 0.01, 0.004) > 0.5 && r.y > -0.02 - 0.15 * t) return jacket * 0.55;
  }
  vec3 cloth = fabric(clothes == SHIRT ? shirt : jacket, at);
  if (side > 0.181 && side < 0.188 && r.z > 0.33) cloth *= 0.72;
  if (!front || sleeve) return cloth;

  float depth = clothes == BLOUSE ? 0.245 : 0.285;
  float open = 0.066 * pow(clamp(1.0 - d / depth, 0.0, 1.0), 0.85);
  if (clothes == SHIRT) {
    if (side < 0.012) cloth = mix(shirt, cloth, 0.35);
    if (line(side - 0.012, 0.0014) > 0.5) cloth *= 0.75;
    vec2 button = vec2(r.x, mod(d, 0.062) - 0.031);
    if (length(button) < 0.0056) cloth = tie;
    vec2 pocket = abs(vec2(r.x - 0.085, d - 0.155)) - vec2(0.034, 0.038);
    float rim = max(pocket.x, pocket.y);
    if (abs(rim) < 0.0022 || (rim < 0.0 && abs(d - 0.131) < 0.002)) cloth *= 0.68;
    if (d < 0.075 && side < 0.034 - 0.42 * d) { gloss = 0.1; return skin * (0.86 - 0.6 * max(0.02 - d, 0.0)); }
    return cloth;
  }
  if (side < open) {
    gloss = 0.09;
    if (clothes == BLOUSE) {
      float neck = 0.052 * pow(clamp(1.0 - d / 0.115, 0.0, 1.0), 0.8);
      float chain = line(d - 0.062 + 14.0 * r.x * r.x, 0.0018);
      if (side < neck) return mix(skin * 0.95, tie, 0.9 * chain);
      return side < neck + 0.007 ? shirt * 0.78 : shirt * (0.97 + 0.05 * sin(r.x * 420.0));
    }
    float knot = d < 0.036 ? 0.0185 - 0.20 * max(d - 0.004, 0.0) : 0.0115 + 0.052 * (d - 0.036);
    if (side < knot && d > -0.012) {
      gloss = 0.2;
      float band = mod(r.x * 0.8 + d, 0.030);
      return tie * (d < 0.037 && d > 0.033 ? 0.6 : 1.0) * (band < 0.008 ? 1.45 : 1.0);
    }
    return side > open - 0.012 ? shirt * 0.80 : shirt;
  }
  // Lapels with a notch, the closing edge, buttons, pockets.
  float lapel = open + 0.050 * smoothstep(0.0, 0.09, depth - d) - 0.10 * max(0.085 - d, 0.0);
  if (d < depth && side < lapel) {
    if (side > lapel - 0.0035 || side < open + 0.003) return jacket * 0.45;
    if (abs(d - 0.078 - 0.4 * (side - open)) < 0.003 && side > open + 0.016) return jacket * 0.40;
    gloss = 0.12;
    return mix(fabric(jacket, at), jacket * 1.22 + 0.03, 0.65);
  }
  if (d >= depth && line(r.x + 0.004, 0.0018) > 0.5) return jacket * 0.45;
  if (length(vec2(r.x - 0.011, mod(d - depth - 0.012, 0.085) - 0.02)) < 0.0078 && d > depth) return mix(jacket, vec3(0.85, 0.8, 0.7), 0.55);
  if (abs(r.x - 0.098) < 0.026 && d > 0.143 && d < 0.151) return mix(shirt, tie, 0.15);
  if (abs(r.x - 0.098) < 0.028 && d > 0.151 && d < 0.160) return jacket * 0.5;
  if (abs(side - 0.105) < 0.040 && abs(d - 0.40) < 0.004) return jacket * 0.5;
  return cloth;
}

#ifdef SHELL
// Apart from the body, which is drawn without `discard` so that hidden fragments cost nothing.
vec3 material() {
  float around = atan(abs(r.x), -(r.y + 0.012));
  float wave = 0.006 * (noise(vec2(r.x * 60.0, 3.0)) - 0.5);
  if (r.z < hairline(around, wave)) discard;
  return hair_colour(around);
}
#else
vec3 material() {
  int part = int(marks.w + 0.5);
  gloss = 0.1;
  float around = atan(abs(r.x), -(r.y + 0.012));
  float wave = 0.006 * (noise(vec2(r.x * 60.0, 3.0)) - 0.5);
  if (part == EYES) {
    gloss = 0.9;
    float out_of = length(vec2(abs(r.x) - eye.x, r.z - eye.z));
    if (out_of < 0.0030) return vec3(0.03);
    if (out_of < 0.0066) return iris * (out_of > 0.0058 ? 0.5 : 1.15);
    return vec3(0.95, 0.94, 0.92);
  }
  if (part == MOUTH && marks.x < 0.75) {
    bool teeth = r.z > eye.z - 0.088 && r.y < eye.y + 0.012 && marks.x < 0.3;
    return teeth ? vec3(0.30, 0.10, 0.10) : vec3(0.20, 0.05, 0.05);
  }
  if (part == TONGUE) return vec3(0.55, 0.22, 0.22);
  float collar = r.z - (0.478 + 0.44 * (r.y + 0.06));
  if (marks.y > 0.35 && abs(r.x) < 0.15) {
    float top = clothes == BLOUSE ? -0.012 : 0.030;
    if (r.z > eye.z - 0.05 && r.z > hairline(around, wave)) return hair_colour(around);
    if (collar > top) return head_skin() * mix(0.74, 1.0, smoothstep(eye.z - 0.15, eye.z - 0.115, r.z - 0.35 * max(r.y + 0.06, 0.0)));
  }
  vec3 lower = wrist - elbow;
  float t = dot(vec3(abs(r.x), r.yz) - elbow, lower) / dot(lower, lower);
  if (abs(r.x) > 0.2 && t > 0.975) {
    vec3 hand = skin * vec3(1.0, 0.95, 0.93);
    hand *= 0.94 + 0.10 * noise(r.xz * 160.0);
    return hand;
  }
  if (collar > -0.012 && clothes != BLOUSE && length(vec2(r.x, 0.8 * (r.y - 0.01))) < 0.075) {
    gloss = 0.1;
    if (clothes == TIE && r.y < -0.02 && abs(r.x) < 0.017 && collar < 0.012) { gloss = 0.2; return tie * 0.85; }
    if (r.y < -0.02 && abs(r.x) < 0.0085 + 0.3 * max(collar, 0.0)) return clothes == TIE ? tie * 0.8 : skin * 0.8;
    return shirt * (collar > 0.026 ? 0.82 : collar < -0.006 ? 0.75 : 1.0);
  }
  return dressed();
}

#endif

void main() {
  edge = max(0.0006, 0.7 * length(fwidth(r)));
  vec3 base = material();
  vec3 n = normalize(normal), eyeward = normalize(camera - place);
  if (dot(n, eyeward) < 0.0) n = -n * 0.999 + 0.001;
  vec3 key = normalize(vec3(-0.55, 0.60, 0.85)), fill = normalize(vec3(0.8, 0.1, 0.55));
  float d = max(0.0, dot(n, key) * 0.88 + 0.12), f = max(0.0, dot(n, fill)), up = 0.5 + 0.5 * n.y;
  float s = pow(max(0.0, dot(n, normalize(key + eyeward))), 26.0);
  float rim = pow(1.0 - max(0.0, dot(n, eyeward)), 3.0) * max(0.0, n.y * 0.5 + 0.5);
  vec3 light = vec3(0.30, 0.31, 0.34) * mix(0.72, 1.0, up) + vec3(0.70, 0.67, 0.62) * d + vec3(0.15, 0.17, 0.20) * f;
  colour = vec4(min(base * light + gloss * s * vec3(0.55) + 0.10 * rim, 1.0), 1.0);
}

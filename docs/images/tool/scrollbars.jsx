// In place of react-custom-scrollbars-2, whose default export esbuild and its importer see differently. A picture does not scroll.
import React from 'react';
export default class Scrollbars extends React.Component {
  render() {
    return <div style={{ overflow: 'hidden', height: '100%' }}>{this.props.children}</div>;
  }
}
export { Scrollbars };
